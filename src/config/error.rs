//! Why there is no configuration.

use std::path::PathBuf;

/// Why there is no configuration. All definite: a human has to change something.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("reading the configuration file {}: {error}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// The text is not YAML.
    #[error("{origin} is not valid YAML: {message}")]
    Syntax {
        /// Where the text came from.
        origin: String,
        /// What is wrong, with line and column.
        message: String,
    },
    /// There is no such setting.
    #[error("there is no setting {path} ({origin}); {hint}")]
    Unknown {
        /// Path as in the file.
        path: String,
        /// Who asked for it.
        origin: String,
        /// What there is instead.
        hint: String,
    },
    /// A value is of the wrong type or outside its bounds.
    #[error("{path} must be {bound}; got {value} ({origin})")]
    Bad {
        /// Path as in the file.
        path: String,
        /// What would be allowed.
        bound: String,
        /// What was given.
        value: String,
        /// Who gave it.
        origin: String,
    },
}
