//! Settings that were given on the command line.

/// Settings given on the command line, as typed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigFlags {
    /// `--data-dir`
    pub data_dir: Option<String>,
    /// `--listen`
    pub listen: Option<String>,
    /// `--workers`
    pub workers: Option<String>,
}
