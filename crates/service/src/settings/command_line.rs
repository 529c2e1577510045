//! Command line of a service: `--help`, `--version` and at most one subcommand.

use std::ffi::OsString;
use std::fmt::{self, Display, Write as _};
use std::io::{self, Write as _};
use std::process::ExitCode;

use super::error::SettingError;

/// Description of a binary, as `--help` prints it. Settings come from environment variables; the command line takes at
/// most one subcommand.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// Name of the binary.
    pub name: &'static str,
    /// Version of the binary.
    pub version: &'static str,
    /// What the binary does, in one sentence.
    pub about: &'static str,
    /// Subcommands, each with its description.
    pub commands: &'static [(&'static str, &'static str)],
    /// Subcommands for child processes, which `--help` omits.
    pub internal: &'static [&'static str],
    /// Environment variables of this binary. `--help` lists those of [`COMMON`] after them.
    pub settings: &'static [Setting],
}

/// An environment variable and its documentation.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Name of the variable.
    pub name: &'static str,
    /// Value that applies when the variable is unset or empty. Empty if there is no default.
    pub default: &'static str,
    /// Meaning of the value, with its unit.
    pub meaning: &'static str,
}

/// Documents a variable with its default and meaning.
pub const fn setting(name: &'static str, default: &'static str, meaning: &'static str) -> Setting {
    Setting { name, default, meaning }
}

/// Variables of every service. `PORT` and `METRICS_ADDR` are missing because their defaults differ.
pub const COMMON: &[Setting] = &[
    setting("HOST", "127.0.0.1", "Address to listen on."),
    setting("ALLOWED_HOSTS", "", "Further accepted host names in Host, comma-separated."),
    setting("MODEL_API_SECRET", "", "Secret with which web_api loads and unloads models, the same for both services."),
    setting(
        "MAX_CONNECTIONS",
        "1024",
        "Open connections; a new one replaces an idle one, or gets 503 if all are busy.",
    ),
    setting("HEADER_TIMEOUT_MS", "10000", "Timeout of a request header, from its first byte."),
    setting("IDLE_TIMEOUT_MS", "75000", "Timeout of a connection without a request."),
    setting("BODY_TIMEOUT_MS", "30000", "Timeout of a request body, and of each write of a response."),
    setting("MAX_BODY_BYTES", "67108864", "Size limit of one request body, decompressed."),
    setting(
        "BODY_MEMORY_BYTES",
        "268435456",
        "Memory budget of all request bodies and of data derived from them; at least twice MAX_BODY_BYTES.",
    ),
    setting(
        "LAME_DUCK_MS",
        "500",
        "Time after SIGTERM during which the service is unready but still accepts connections.",
    ),
    setting("DRAIN_TIMEOUT_MS", "20000", "Time after that for requests in flight to finish."),
    setting("LOG_FORMAT", "human", "human or json."),
    setting("LOG_LEVEL", "info", "Level, or a filter such as info,web_api=debug."),
];

impl Program {
    /// Parses `arguments`, without the name of the program. `None` starts the service itself.
    ///
    /// # Errors
    ///
    /// The exit code if nothing remains to be done: 0 after `--help` or `--version`, 64 after an unknown argument.
    pub fn command(&self, arguments: impl Iterator<Item = OsString>) -> Result<Option<&'static str>, ExitCode> {
        let arguments: Vec<String> = arguments.map(|argument| argument.to_string_lossy().into_owned()).collect();
        let has = |long: &str, short: &str| arguments.iter().any(|argument| argument == long || argument == short);
        if has("--help", "-h") {
            return Err(print(self));
        }
        if has("--version", "-V") {
            return Err(print(&format_args!("{} {}\n", self.name, self.version)));
        }
        let Some(first) = arguments.first() else { return Ok(None) };
        let mut commands = self.commands.iter().map(|(command, _)| command).chain(self.internal);
        match (commands.find(|command| *command == first), arguments.get(1)) {
            (Some(command), None) => Ok(Some(*command)),
            (Some(_), Some(extra)) => Err(self.reject(extra)),
            (None, _) => Err(self.reject(first)),
        }
    }

    fn reject(&self, argument: &str) -> ExitCode {
        eprintln!("{}: unknown argument {argument:?}", self.name);
        eprintln!("{}", self.usage());
        eprintln!("{} --help lists commands and settings.", self.name);
        ExitCode::from(SettingError::EXIT_CODE)
    }

    fn usage(&self) -> String {
        let commands = self.commands.iter().fold(String::new(), |list, (command, _)| list + command + "|");
        format!("usage: {} [{}]", self.name, commands.trim_end_matches('|'))
    }
}

impl Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        writeln!(f, "{} {}: {}\n\n{}\n", self.name, self.version, self.about, self.usage())?;
        for (command, meaning) in self.commands {
            writeln!(f, "  {command:<10} {meaning}")?;
        }
        writeln!(f, "  {:<10} this text\n  {:<10} the version\n", "--help", "--version")?;
        writeln!(f, "Settings are environment variables; here with their defaults. An empty one counts as unset.\n")?;
        for Setting { name, default, meaning } in self.settings.iter().chain(COMMON) {
            let mut variable = String::new();
            write!(variable, "{name}={default}")?;
            writeln!(f, "  {variable:<36} {meaning}")?;
        }
        Ok(())
    }
}

/// Prints to stdout. Ignores write errors: a reader such as `head` may have closed the pipe.
fn print(text: &impl Display) -> ExitCode {
    let _ = write!(io::stdout(), "{text}");
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROGRAM: Program = Program {
        name: "server",
        version: "1.2.3",
        about: "serves.",
        commands: &[("health", "checks readiness")],
        internal: &["child"],
        settings: &[setting("PORT", "5000", "Port to listen on.")],
    };

    fn command(arguments: &[&str]) -> Result<Option<&'static str>, ExitCode> {
        PROGRAM.command(arguments.iter().map(OsString::from))
    }

    #[test]
    fn command_accepts_at_most_one_known_subcommand() {
        assert_eq!(command(&[]), Ok(None));
        assert_eq!(command(&["health"]), Ok(Some("health")));
        assert_eq!(command(&["child"]), Ok(Some("child")));
        for unknown in [&["serve"][..], &["health", "now"], &["--port"], &[""]] {
            assert_eq!(command(unknown), Err(ExitCode::from(64)), "{unknown:?}");
        }
        for arguments in [&["--help"][..], &["-h"], &["--version"], &["-V"], &["health", "--help"]] {
            assert_eq!(command(arguments), Err(ExitCode::SUCCESS), "{arguments:?}");
        }
    }

    #[test]
    fn help_lists_subcommands_and_settings_with_defaults() {
        let help = PROGRAM.to_string();
        assert!(help.starts_with("server 1.2.3: serves.\n\nusage: server [health]\n"), "{help}");
        assert!(help.contains("\n  health     checks readiness\n") && !help.contains("child"), "{help}");
        for line in ["  PORT=5000 ", "  IDLE_TIMEOUT_MS=75000 "] {
            assert!(help.contains(line), "{help}");
        }
    }
}
