//! The file: making it, recognising it, and what SQLite's errors mean for the caller.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension};
use tidewatch_dataflows::rows::columns::FieldType;
use tidewatch_dataflows::rows::kind::RowStorage;
use tidewatch_dataflows::rows::{KINDS, KindInfo};

use crate::store::StoreError;

/// "TDWT": marks the file as ours.
const APPLICATION_ID: i64 = 0x5444_5754;

/// Version of the tables; those of another are refused.
const VERSION: i64 = 5;

/// How long to wait for another connection's lock.
const BUSY: Duration = Duration::from_secs(5);

/// Pages of the log behind which it is folded into the file.
pub const CHECKPOINT_PAGES: i32 = 4_000;

const TABLES: &str = "
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE catalog (
    series INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    labels TEXT NOT NULL,
    from_hour INTEGER NOT NULL,
    to_hour INTEGER NOT NULL,
    written_hour INTEGER NOT NULL,
    id TEXT GENERATED ALWAYS AS (printf('%016x', CASE WHEN series < 0
        THEN series + 9223372036854775807 + 1 ELSE series - 9223372036854775807 - 1 END)) VIRTUAL
);
CREATE INDEX catalog_by_name ON catalog (name, series);
CREATE TABLE manifest (
    kind TEXT NOT NULL,
    hour INTEGER NOT NULL,
    partition INTEGER NOT NULL,
    step_ms INTEGER NOT NULL,
    at_min INTEGER NOT NULL,
    at_max INTEGER NOT NULL,
    rows INTEGER NOT NULL,
    PRIMARY KEY (kind, hour, partition)
) WITHOUT ROWID;
";

/// Revisions of keys. Numbers rise, so that the oldest corrections are the lowest.
const CORRECTIONS: &str = "
CREATE TABLE corrections (
    number INTEGER PRIMARY KEY,
    series INTEGER NOT NULL,
    window_ms INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    epoch INTEGER,
    written_ms INTEGER NOT NULL,
    count INTEGER NOT NULL,
    UNIQUE (series, window_ms, at_ms, revision)
);
";

/// The kinds of rows and the versions of their fields, which are the columns of their tables.
fn kinds() -> String {
    let kinds = KINDS.iter().map(|kind| format!("{} {}", kind.name, kind.version));
    kinds.collect::<Vec<_>>().join(", ")
}

/// The table that holds the rows of one kind written in one hour.
pub fn table(kind: &KindInfo, hour: i64) -> String {
    format!("{}_{hour}", kind.name)
}

/// The statement that makes the table of an hour, or the one table of a kind that has no hours.
pub fn create_table(kind: &KindInfo, hour: i64) -> String {
    let declared = kind.fields.iter().map(|field| {
        let sql_type = match field.of {
            FieldType::Float => "REAL",
            FieldType::Floats => "BLOB NOT NULL",
            FieldType::Int | FieldType::UInt | FieldType::Series => "INTEGER NOT NULL",
        };
        format!("{} {sql_type}", quoted(field.name))
    });
    let mut declared: Vec<String> = declared.collect();
    let (table, more) = match kind.storage {
        RowStorage::Hourly { epoch, .. } => (table(kind, hour), epoch.then_some("epoch")),
        RowStorage::Latest => (kind.name.to_owned(), Some("written_hour")),
    };
    declared.extend(more.map(|column| format!("{column} INTEGER NOT NULL")));
    let key: Vec<_> = key(kind).into_iter().map(quoted).collect();
    let (declared, key) = (declared.join(", "), key.join(", "));
    format!("CREATE TABLE IF NOT EXISTS {table} ({declared}, PRIMARY KEY ({key})) WITHOUT ROWID")
}

/// The columns of a table's primary key, in order.
pub fn key(kind: &KindInfo) -> Vec<&'static str> {
    match kind.storage {
        RowStorage::Hourly { epoch, partition, key, .. } => {
            epoch.then_some("epoch").into_iter().chain(partition).chain(key.iter().copied()).collect()
        }
        RowStorage::Latest => vec!["series"],
    }
}

/// The fields of a kind, as a list for a statement.
pub fn columns(kind: &KindInfo) -> String {
    let names: Vec<_> = kind.fields.iter().map(|field| quoted(field.name)).collect();
    names.join(", ")
}

/// A name of a column in a statement: some are words of SQL.
pub fn quoted(name: &str) -> String {
    format!("\"{name}\"")
}

/// Opens the file for the one writer; makes it if it is new.
pub fn open_for_writing(path: &Path) -> Result<Connection, StoreError> {
    let fail = |error| failure(path, "open", error);
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut conn = Connection::open_with_flags(path, flags).map_err(fail)?;
    conn.busy_timeout(BUSY).map_err(fail)?;
    if is_new(&conn).map_err(fail)? {
        conn.pragma_update(None, "journal_mode", "WAL").map_err(fail)?;
        let tx = conn.transaction().map_err(fail)?;
        tx.execute_batch(TABLES).map_err(fail)?;
        tx.execute_batch(CORRECTIONS).map_err(fail)?;
        for kind in KINDS.iter().filter(|kind| kind.storage == RowStorage::Latest) {
            tx.execute_batch(&create_table(kind, 0)).map_err(fail)?;
        }
        tx.execute("INSERT INTO meta (key, value) VALUES ('kinds', ?1)", [kinds()]).map_err(fail)?;
        tx.pragma_update(None, "application_id", APPLICATION_ID).map_err(fail)?;
        tx.pragma_update(None, "user_version", VERSION).map_err(fail)?;
        tx.commit().map_err(fail)?;
    }
    recognise(&conn, path)?;
    conn.pragma_update(None, "journal_mode", "WAL").map_err(fail)?;
    conn.pragma_update(None, "synchronous", "NORMAL").map_err(fail)?;
    conn.pragma_update(None, "journal_size_limit", 64 << 20).map_err(fail)?;
    conn.pragma_update(None, "cache_size", -(8 << 10)).map_err(fail)?;
    conn.set_prepared_statement_cache_capacity(32);
    Ok(conn)
}

/// How a reader opens the file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    /// Beside a writer and other readers, who share an index of the log in a file of its own.
    Shared,
    /// Where that file is not there and cannot be made, so that nobody else has the store open: a file system that can
    /// only be read. With a log, which is read through an index in memory.
    WithLog,
    /// The same without a log.
    Unchanging,
}

/// Opens the file for a reader.
pub fn open_for_reading(path: &Path) -> Result<Connection, StoreError> {
    if !path.exists() {
        return Err(StoreError::Missing { path: path.to_owned() });
    }
    let beside = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    match open_reader(path, Access::Shared) {
        Err(StoreError::Unavailable { .. }) if !beside("-shm").exists() => {
            let logged = std::fs::metadata(beside("-wal")).is_ok_and(|log| log.len() > 0);
            open_reader(path, if logged { Access::WithLog } else { Access::Unchanging })
        }
        opened => opened,
    }
}

fn open_reader(path: &Path, access: Access) -> Result<Connection, StoreError> {
    let fail = |error| failure(path, "open", error);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let uri = flags | OpenFlags::SQLITE_OPEN_URI;
    let conn = match access {
        Access::Shared => Connection::open_with_flags(path, flags),
        Access::WithLog => Connection::open_with_flags(uri_of(path, "vfs=unix-none"), uri),
        Access::Unchanging => Connection::open_with_flags(uri_of(path, "immutable=1"), uri),
    };
    let conn = conn.map_err(fail)?;
    conn.busy_timeout(BUSY).map_err(fail)?;
    if access == Access::WithLog {
        // Before the first look at the log: only then its index is in memory.
        conn.pragma_update(None, "locking_mode", "EXCLUSIVE").map_err(fail)?;
    }
    recognise(&conn, path)?;
    conn.pragma_update(None, "cache_size", -(8 << 10)).map_err(fail)?;
    conn.set_prepared_statement_cache_capacity(64);
    Ok(conn)
}

/// A path as SQLite's URI, with what is asked of it.
fn uri_of(path: &Path, query: &str) -> String {
    let mut uri = "file:".to_owned();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'-' | b'_' | b'.' | b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => {
                uri.push(char::from(*byte))
            }
            other => uri += &format!("%{other:02x}"),
        }
    }
    uri + "?mode=ro&" + query
}

fn is_new(conn: &Connection) -> rusqlite::Result<bool> {
    let id: i64 = conn.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let things: i64 = conn.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0))?;
    Ok(id == 0 && things == 0)
}

/// Judges whether the file is a store of the known version with the tables its manifest names.
fn recognise(conn: &Connection, path: &Path) -> Result<(), StoreError> {
    let fail = |error| failure(path, "open", error);
    let pragma = |name| conn.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map_err(fail);
    let id = pragma("application_id")?;
    if id != APPLICATION_ID {
        let why = format!("its application_id is {id}, not {APPLICATION_ID}");
        return Err(StoreError::Foreign { path: path.to_owned(), why });
    }
    let found = pragma("user_version")?;
    if found != VERSION {
        return Err(StoreError::Version { path: path.to_owned(), found, known: VERSION });
    }
    let sql = "SELECT value FROM meta WHERE key = 'kinds'";
    let found = conn.query_row(sql, [], |row| row.get::<_, String>(0)).optional().map_err(fail)?;
    let (found, known) = (found.unwrap_or_default(), kinds());
    if found != known {
        return Err(StoreError::Kinds { path: path.to_owned(), found, known });
    }
    let missing = "SELECT kind || '_' || hour FROM manifest \
                   WHERE kind || '_' || hour NOT IN (SELECT name FROM sqlite_master) LIMIT 1";
    match conn.query_row(missing, [], |row| row.get::<_, String>(0)) {
        Ok(table) => {
            Err(StoreError::Damaged { path: path.to_owned(), why: format!("its table {table} is missing") })
        }
        Err(rusqlite::Error::QueryReturnedNoRows) => Ok(()),
        Err(error) => Err(fail(error)),
    }
}

/// What an error of SQLite means for whoever made `attempt`.
pub fn failure(path: &Path, attempt: &'static str, error: rusqlite::Error) -> StoreError {
    let path = path.to_owned();
    let why = error.to_string();
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => StoreError::Foreign { path, why },
        Some(ErrorCode::DatabaseCorrupt) => {
            StoreError::Corrupt { path, why: format!("cannot {attempt}: {why}") }
        }
        Some(
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::FileLockingProtocolFailed
            | ErrorCode::DiskFull
            | ErrorCode::SystemIoFailure
            | ErrorCode::OutOfMemory
            | ErrorCode::PermissionDenied
            | ErrorCode::ReadOnly
            | ErrorCode::CannotOpen
            | ErrorCode::OperationInterrupted
            | ErrorCode::SchemaChanged,
        ) => StoreError::Unavailable { path, attempt, why },
        // A missing table or column, a value of another type: the file is not as we wrote it.
        _ => StoreError::Damaged { path, why: format!("cannot {attempt}: {why}") },
    }
}
