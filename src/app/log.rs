//! The log: one line an event, whatever texts are in it.
//!
//! What others wrote (labels, warnings of a server, a header) may hold line ends and other controls that make one event
//! look like two, or hide a part of it. They are escaped here, wherever they come from.

use std::fmt::{self, Write};

use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::debug_fn;
use tracing_subscriber::util::SubscriberInitExt;

/// Sends the log to standard error, from `level` on or as `TIDEWATCH_LOG` says.
pub fn start(level: &str) {
    let filter = EnvFilter::try_from_env("TIDEWATCH_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    subscriber(filter, std::io::stderr).init();
}

fn subscriber<W>(filter: EnvFilter, to: W) -> impl Subscriber + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let fields = debug_fn(|writer, field, value| match field.name() {
        "message" => write!(EscapeControls(writer), "{value:?}"),
        name => write!(EscapeControls(writer), "{name}={value:?}"),
    });
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(to);
    log.with_target(false).fmt_fields(fields.delimited(" ")).finish()
}

/// A text in one line, with nothing in it that is not shown.
pub fn plain(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    // A string takes everything.
    let _ = EscapeControls(&mut shown).write_str(text);
    shown
}

/// Writes controls as escapes.
struct EscapeControls<W>(W);

impl<W: Write> Write for EscapeControls<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some(at) = rest.find(is_hidden) {
            self.0.write_str(&rest[..at])?;
            let mut after = rest[at..].chars();
            after.next().into_iter().try_for_each(|c| write!(self.0, "{}", escaped(c)))?;
            rest = after.as_str();
        }
        self.0.write_str(rest)
    }
}

fn escaped(c: char) -> String {
    match c {
        '\n' | '\r' | '\t' => c.escape_default().to_string(),
        _ => c.escape_unicode().to_string(),
    }
}

/// Controls, line ends of Unicode, and what changes the direction of a text.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_stays_in_its_line() {
        assert_eq!(plain("größe {a=\"b\"} 100 %"), "größe {a=\"b\"} 100 %");
        let forged = "up\n2026-01-01T00:00:00Z ERROR all is lost\r\x1b[2J\u{85}\u{2028}\u{202e}x\0";
        let shown = plain(forged);
        assert_eq!(
            shown,
            r"up\n2026-01-01T00:00:00Z ERROR all is lost\r\u{1b}[2J\u{85}\u{2028}\u{202e}x\u{0}"
        );
        assert_eq!(plain("\n"), r"\n");
    }

    #[test]
    fn an_event_is_a_line_whatever_is_in_it() {
        let lines = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let to = std::sync::Arc::clone(&lines);
        let log = subscriber(EnvFilter::new("info"), move || LogLines(std::sync::Arc::clone(&to)));
        let forged = "up\n2026-01-01T00:00:00Z ERROR all is lost";
        tracing::subscriber::with_default(log, || {
            tracing::warn!("the series {forged} is too late");
            tracing::warn!(name = forged, shown = %forged, "it has fields");
        });
        let text = String::from_utf8(lines.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.lines().all(|line| line.contains(" WARN ") && line.contains(r"up\n2026")), "{text}");
    }

    #[derive(Clone)]
    struct LogLines(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

    impl std::io::Write for LogLines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
}
