//! Text format of log lines.

use std::cell::RefCell;
use std::fmt::{self, Debug, Write};
use std::time::{Duration, SystemTime as Clock, UNIX_EPOCH};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::{LookupSpan, Scope};

/// Length of the part of an ISO 8601 timestamp that is constant for a whole second.
const SECONDS_LENGTH: usize = "2026-11-25T19:26:00".len();

/// Uncoloured text lines in the format of `tracing_subscriber`, written in a third of the time. Every request writes
/// one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TextFormat;

impl<S, N> FormatEvent<S, N> for TextFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut line: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        write_timestamp(&mut line)?;
        line.write_str(match *event.metadata().level() {
            Level::ERROR => " ERROR ",
            Level::WARN => "  WARN ",
            Level::INFO => "  INFO ",
            Level::DEBUG => " DEBUG ",
            Level::TRACE => " TRACE ",
        })?;
        let spans = context.event_scope().into_iter().flat_map(Scope::from_root);
        let mut any = false;
        for span in spans {
            any = true;
            line.write_str(span.name())?;
            if let Some(fields) = span.extensions().get::<FormattedFields<N>>().filter(|fields| !fields.is_empty()) {
                line.write_char('{')?;
                line.write_str(fields)?;
                line.write_char('}')?;
            }
            line.write_char(':')?;
        }
        let mut fields = FieldWriter { line, first: !any, result: Ok(()) };
        event.record(&mut fields);
        fields.result?;
        fields.line.write_char('\n')
    }
}

/// Writes a timestamp such as `2026-11-25T19:26:00.572280Z`.
fn write_timestamp(line: &mut Writer<'_>) -> fmt::Result {
    thread_local! {
        /// The last formatted second and its text.
        static SECOND: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) };
    }
    let now = Clock::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    SECOND.with_borrow_mut(|(second, digits)| {
        if *second != now.as_secs() {
            digits.clear();
            SystemTime.format_time(&mut Writer::new(digits))?;
            digits.truncate(SECONDS_LENGTH);
            *second = now.as_secs();
        }
        line.write_str(digits)
    })?;
    write!(line, ".{:06}Z", now.subsec_micros())
}

/// Fields of a span, formatted once when the span starts.
impl<'a> FormatFields<'a> for TextFormat {
    fn format_fields<R: RecordFields>(&self, line: Writer<'a>, fields: R) -> fmt::Result {
        let mut written = FieldWriter { line, first: true, result: Ok(()) };
        fields.record(&mut written);
        written.result
    }
}

/// Writes fields as `message name=value …`.
struct FieldWriter<'a> {
    line: Writer<'a>,
    first: bool,
    result: fmt::Result,
}

impl FieldWriter<'_> {
    fn write(&mut self, field: &Field, value: impl FnOnce(&mut Writer<'_>) -> fmt::Result) {
        if self.result.is_ok() {
            self.result = self.write_name(field).and_then(|()| value(&mut self.line));
        }
    }

    fn write_name(&mut self, field: &Field) -> fmt::Result {
        if !std::mem::take(&mut self.first) {
            self.line.write_char(' ')?;
        }
        if field.name() == "message" {
            return Ok(());
        }
        self.line.write_str(field.name())?;
        self.line.write_char('=')
    }
}

impl Visit for FieldWriter<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        let is_plain = value.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\');
        self.write(field, |line| {
            if !is_plain {
                return write!(line, "{value:?}");
            }
            line.write_char('"')?;
            line.write_str(value)?;
            line.write_char('"')
        });
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.write(field, |line| write!(EscapingWriter(line), "{value:?}"));
    }
}

/// Escapes control characters in values, so that a value cannot end the line, forge another one or emit terminal
/// sequences.
struct EscapingWriter<'a, 'b>(&'a mut Writer<'b>);

impl Write for EscapingWriter<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if !text.contains(char::is_control) {
            return self.0.write_str(text);
        }
        for char in text.chars() {
            if char.is_control() {
                write!(self.0, "{}", char.escape_default())?;
            } else {
                self.0.write_char(char)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing::subscriber::with_default;
    use tracing::{info, info_span, warn};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(line);
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn lines(log: impl Fn()) -> Vec<String> {
        let written = Written::default();
        let to = written.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || to.clone())
            .fmt_fields(TextFormat)
            .event_format(TextFormat)
            .finish();
        with_default(subscriber, log);
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| line[SECONDS_LENGTH + ".000000Z".len()..].to_owned()).collect()
    }

    #[test]
    fn line_contains_level_spans_and_fields() {
        let written = lines(|| {
            warn!(error = %"gone", left = 3, "no response");
            let id = Some("7");
            info_span!("request", id).in_scope(|| info!(path = "/v2", ms = 0.25, none = None::<&str>, "completed"));
        });
        assert_eq!(
            written,
            ["  WARN no response error=gone left=3", "  INFO request{id=\"7\"}: completed path=\"/v2\" ms=0.25"]
        );
    }

    #[test]
    fn control_characters_in_values_are_escaped() {
        let written = lines(|| info!(error = %"a\nb\x1b[31m", path = "c\n\"d\"", "received"));
        assert_eq!(written, ["  INFO received error=a\\nb\\u{1b}[31m path=\"c\\n\\\"d\\\"\""]);
    }

    #[test]
    fn timestamp_has_the_format_of_tracing_subscriber() {
        let (mut ours, mut theirs) = (String::new(), String::new());
        write_timestamp(&mut Writer::new(&mut ours)).unwrap();
        SystemTime.format_time(&mut Writer::new(&mut theirs)).unwrap();
        assert_eq!(ours.len(), theirs.len());
        assert_eq!(ours[..10], theirs[..10]);
    }
}
