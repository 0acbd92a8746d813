//! The names of steps: what a disk is asked to do, said so that a test or a person can point at it.
//!
//! `write journal`, `sync journal`, `cut journal`, `create segment journal`, `sync dir journal`; a file that is no
//! segment shows its name without numbers: `write snapshots/manifest.new`.

use std::path::Path;

/// What changes a disk, or makes a change durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    MakeDir,
    Create,
    Write,
    Cut,
    Sync,
    Rename,
    Remove,
    SyncDir,
}

impl Step {
    /// The name of this step on `path`: of a rename the new name, of a folder the folder.
    pub fn name(self, path: &Path) -> String {
        let verb = match self {
            Step::MakeDir => return format!("make dir {}", last(path)),
            Step::SyncDir => return format!("sync dir {}", last(path)),
            Step::Create => "create",
            Step::Write => "write",
            Step::Cut => "cut",
            Step::Sync => "sync",
            Step::Rename => "rename",
            Step::Remove => "remove",
        };
        let folder = path.parent().map(last).unwrap_or_default();
        let file: String = last(path).chars().filter(|c| !c.is_ascii_digit()).collect();
        match (self, file.trim_matches(['.', '-', '_'])) {
            (Step::Create | Step::Rename | Step::Remove, "seg") => format!("{verb} segment {folder}"),
            (_, "seg") => format!("{verb} {folder}"),
            (_, other) => format!("{verb} {folder}/{other}"),
        }
    }
}

fn last(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_named_after_what_it_does_and_to_what() {
        for (step, path, name) in [
            (Step::Write, "data/journal/00000000000000000007.seg", "write journal"),
            (Step::Create, "data/journal/00000000000000000007.seg", "create segment journal"),
            (Step::Remove, "data/outbox/00000000000000000007.seg", "remove segment outbox"),
            (Step::Sync, "series/00000000000000000007.seg.cut-61", "sync series/seg.cut"),
            (Step::Rename, "data/snapshots/manifest", "rename snapshots/manifest"),
            (Step::Write, "data/snapshots/017-a-1234.state.new", "write snapshots/a-.state.new"),
            (Step::SyncDir, "data/journal", "sync dir journal"),
            (Step::MakeDir, "data/journal", "make dir journal"),
        ] {
            assert_eq!(step.name(Path::new(path)), name);
        }
    }
}
