//! Maps whose keys are hashes already.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Keys are hashes already.
#[derive(Default)]
pub(super) struct IdentityHash(u64);

impl Hasher for IdentityHash {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only u64 keys are used with this hasher");
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = n;
    }
}

pub(super) type ByHash<T> = HashMap<u64, T, BuildHasherDefault<IdentityHash>>;
