use std::ffi::OsString;
use std::fmt::{self, Display, Write as _};
use std::io::{self, Write as _};
use std::process::ExitCode;

use super::error::SettingError;

/// What one of our programs is, as `--help` shows it. Settings come from the environment; the command line has one word at most.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// The binary's name.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
    /// What it does, in one sentence.
    pub about: &'static str,
    /// The words that it understands, and what each does.
    pub commands: &'static [(&'static str, &'static str)],
    /// Words for its own child processes, which `--help` leaves out.
    pub internal: &'static [&'static str],
    /// Its own variables. Those of [`COMMON`] follow.
    pub settings: &'static [Setting],
}

/// An environment variable.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The variable.
    pub name: &'static str,
    /// Its value where it is unset or empty; an empty one where there is none.
    pub default: &'static str,
    /// What it means, with its unit.
    pub meaning: &'static str,
}

/// A variable with this default and meaning.
pub const fn setting(name: &'static str, default: &'static str, meaning: &'static str) -> Setting {
    Setting { name, default, meaning }
}

/// The variables of every service, beside `PORT` and `METRICS_ADDR`, whose defaults differ.
pub const COMMON: &[Setting] = &[
    setting("HOST", "127.0.0.1", "Address to listen on."),
    setting("ALLOWED_HOSTS", "", "Further names in Host that are accepted, with commas."),
    setting("MODEL_API_SECRET", "", "Secret with which web_api loads and unloads models, the same for both services."),
    setting("MAX_CONNECTIONS", "1024", "Open connections; one more takes an idle one's place, or is answered 503."),
    setting("HEADER_TIMEOUT_MS", "10000", "Time for a request's header, from its first byte."),
    setting("IDLE_TIMEOUT_MS", "75000", "Time after which a connection without a request is closed."),
    setting("BODY_TIMEOUT_MS", "30000", "Time for a request's body, and for each piece of a response."),
    setting("MAX_BODY_BYTES", "67108864", "Bytes of one request's body, unpacked."),
    setting(
        "BODY_MEMORY_BYTES",
        "268435456",
        "Bytes of memory for all bodies together, and for what is made of them; at least twice MAX_BODY_BYTES.",
    ),
    setting("LAME_DUCK_MS", "500", "Time after SIGTERM in which the service is unready but still accepts."),
    setting("DRAIN_TIMEOUT_MS", "20000", "Time after that for open requests to finish."),
    setting("LOG_FORMAT", "human", "human or json."),
    setting("LOG_LEVEL", "info", "A level, or a filter such as info,web_api=debug."),
];

impl Program {
    /// The command that `arguments`, without the program's own name, ask for; `None` for the service itself.
    ///
    /// # Errors
    /// The exit code where nothing is left to do: 0 after `--help` or `--version`, 64 after an argument that is unknown.
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

/// To stdout. A reader that has closed it, such as `head`, has seen enough.
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
        commands: &[("health", "asks whether it is ready")],
        internal: &["child"],
        settings: &[setting("PORT", "5000", "Port to listen on.")],
    };

    fn command(arguments: &[&str]) -> Result<Option<&'static str>, ExitCode> {
        PROGRAM.command(arguments.iter().map(OsString::from))
    }

    #[test]
    fn a_program_takes_one_known_word_or_none() {
        assert_eq!(command(&[]), Ok(None));
        assert_eq!(command(&["health"]), Ok(Some("health")));
        assert_eq!(command(&["child"]), Ok(Some("child")));
        for unknown in [&["serve"][..], &["health", "now"], &["--port"], &[""]] {
            assert_eq!(command(unknown), Err(ExitCode::from(64)), "{unknown:?}");
        }
        for asked in [&["--help"][..], &["-h"], &["--version"], &["-V"], &["health", "--help"]] {
            assert_eq!(command(asked), Err(ExitCode::SUCCESS), "{asked:?}");
        }
    }

    #[test]
    fn the_help_lists_commands_and_settings_with_their_defaults() {
        let help = PROGRAM.to_string();
        assert!(help.starts_with("server 1.2.3: serves.\n\nusage: server [health]\n"), "{help}");
        assert!(help.contains("\n  health     asks whether it is ready\n") && !help.contains("child"), "{help}");
        for line in ["  PORT=5000 ", "  IDLE_TIMEOUT_MS=75000 "] {
            assert!(help.contains(line), "{help}");
        }
    }
}
