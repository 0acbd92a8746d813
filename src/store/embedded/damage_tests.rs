//! Tests: files that are not ours, and damaged ones.

use rusqlite::Connection;

use super::tests::{every, random_store};
use super::{Embedded, EmbeddedOptions};
use tidewatch_dataflows::rows::Reject;

use crate::store::row::ExportKind;
use crate::store::selector::Selectors;
use crate::store::testing::TempDir;
use crate::store::{ExportQuery, Range, Store, StoreError, WindowQuery};

#[test]
fn files_that_are_not_ours_are_refused_clearly() {
    let dir = TempDir::new();
    let open = || {
        let write = Embedded::open(&dir.file(), EmbeddedOptions::default()).err().unwrap().to_string();
        let read =
            Embedded::open_read_only(&dir.file(), EmbeddedOptions::default()).err().unwrap().to_string();
        (write, read)
    };
    let error = Embedded::open_read_only(&dir.file(), EmbeddedOptions::default()).err().unwrap();
    assert!(error.to_string().starts_with("there is no store at "), "{error}");

    std::fs::write(dir.file(), "this is a text, and rather a long one: ".repeat(40)).unwrap();
    for error in [open().0, open().1] {
        assert!(error.contains("is not a store of tidewatch: file is not a database"), "{error}");
    }
    std::fs::remove_file(dir.file()).unwrap();
    let conn = Connection::open(dir.file()).unwrap();
    conn.execute_batch("CREATE TABLE other (x)").unwrap();
    for error in [open().0, open().1] {
        assert!(
            error.contains("is not a store of tidewatch: its application_id is 0, not 1413764948"),
            "{error}"
        );
    }
    let tables: i64 = conn.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0)).unwrap();
    assert_eq!(tables, 1, "the foreign file is left as it was");
    drop(conn);
    std::fs::remove_file(dir.file()).unwrap();
    drop(dir.store());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "closing leaves one file");
    Connection::open(dir.file()).unwrap().pragma_update(None, "user_version", 7).unwrap();
    for error in [open().0, open().1] {
        assert!(error.ends_with("is a store of version 7; this program knows version 5"), "{error}");
    }
    let other = Connection::open(dir.file()).unwrap();
    other.pragma_update(None, "user_version", 5).unwrap();
    other.execute("UPDATE meta SET value = 'windows 0' WHERE key = 'kinds'", []).unwrap();
    drop(other);
    for error in [open().0, open().1] {
        assert!(error.contains("is a store of \"windows 0\"; this program knows \"windows "), "{error}");
    }
    let error = Embedded::open(&dir.path().join("no/such/dir/store.sqlite"), EmbeddedOptions::default())
        .err()
        .unwrap();
    assert!(error.is_transient() && error.to_string().starts_with("cannot open in the store "), "{error}");
}

/// Puts another file in the store's place; a log beside it would belong to the file that was there.
fn replace_file(dir: &TempDir, bytes: &[u8]) {
    for beside in ["store.sqlite-wal", "store.sqlite-shm"] {
        let _ = std::fs::remove_file(dir.path().join(beside));
    }
    std::fs::write(dir.file(), bytes).unwrap();
}

#[test]
fn damage_is_found_and_named() {
    let dir = TempDir::new();
    let (store, _, _) = random_store(&dir, 2);
    drop(store);
    let whole = std::fs::read(dir.file()).unwrap();
    let mut random = fastrand::Rng::with_seed(2);
    let mut found = 0;
    for _ in 0..40 {
        // Pages overwritten with noise, and files cut short: an answer or an error, never a panic.
        let mut bytes = whole.clone();
        let page = random.usize(1..bytes.len() / 4096);
        if random.bool() {
            bytes.truncate(page * 4096);
        } else {
            bytes[page * 4096..(page + 1) * 4096].iter_mut().for_each(|byte| *byte = random.u8(..));
        }
        replace_file(&dir, &bytes);
        let outcome = Embedded::open(&dir.file(), EmbeddedOptions::default()).and_then(|store| {
            store.windows(&WindowQuery { range: Some(Range::ALL), limit: 10_000, ..every() })?;
            let query = ExportQuery {
                kind: ExportKind::of::<Reject>(),
                select: Selectors::default(),
                range: Range::ALL,
            };
            store.export(&query, &mut |_| Ok(()))?;
            store.drop_expired(i64::MAX)
        });
        if let Err(error) = outcome {
            assert!(matches!(error, StoreError::Damaged { .. } | StoreError::Corrupt { .. }), "{error}");
            assert!(error.to_string().contains("is damaged: "), "{error}");
            found += 1;
        }
    }
    assert!(found > 10, "damage was found {found} times of 40");

    replace_file(&dir, &whole);
    let conn = Connection::open(dir.file()).unwrap();
    let table: String = conn
        .query_row("SELECT name FROM sqlite_master WHERE name LIKE 'windows_%' LIMIT 1", [], |row| row.get(0))
        .unwrap();
    conn.execute_batch(&format!("DROP TABLE {table}")).unwrap();
    let error = Embedded::open(&dir.file(), EmbeddedOptions::default()).err().unwrap().to_string();
    assert!(error.ends_with(&format!("is damaged: its table {table} is missing")), "{error}");
}
