//! A store in a file of SQLite, which one server uses.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use sqlx::{
    ConnectOptions as _,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

use tokio::time::Instant;

use super::{
    connection::{Connection, Target},
    error::OpenError,
    neighbours::Node,
    nodes::incarnate,
    runner::Runner,
    schema,
    statement::{Row, Statement},
};

/// `PRAGMA application_id` of this program's files.
const APPLICATION: i64 = 0x4370_4772;

/// The size of the header of an SQLite file: <https://www.sqlite.org/fileformat.html#the_database_header>.
const HEADER: usize = 100;

/// How it begins.
const MAGIC: &[u8] = b"SQLite format 3\0";

/// How many rows a reader hands over without waiting: those of a page.
const ROWS: usize = 1_024;

/// Opens a file, which is made if it is not there.
pub(super) async fn open(path: &Path, node: Node, time_limit: Duration) -> Result<Runner, OpenError> {
    let lock = hold(path)?;
    let has_content = check_beginning(path)?;
    // In WAL mode a commit is in the file's log when the process dies, but perhaps not when the machine does; the file itself
    // stays whole in any case.
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .foreign_keys(true)
        .busy_timeout(time_limit)
        .synchronous(SqliteSynchronous::Normal)
        .disable_statement_logging();
    // Before the file is known to be whole and ours, nothing is written, not even its mode.
    let mut connection = Target::Sqlite(options.clone()).connect().await?;
    if has_content {
        check(&mut connection, path).await?;
    }
    connection.close().await;
    let options = options.journal_mode(SqliteJournalMode::Wal);
    let reading = options.clone().pragma("query_only", "on").row_buffer_size(ROWS);
    let writer = Target::Sqlite(options);
    let mut connection = writer.connect().await?;
    schema::migrate(&mut connection).await?;
    let began = Instant::now();
    let incarnation = incarnate(&mut connection, &node).await?;
    connection.close().await;
    Ok(Runner::new(writer, Some(Target::Sqlite(reading)), node, incarnation, began, time_limit, Some(lock)))
}

/// Holds the file for this process: two would each take the other's sessions for lost.
fn hold(path: &Path) -> Result<File, OpenError> {
    let lock = beside(path, ".lock");
    let file = open_file(&lock).map_err(|error| unopened(&lock, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse {
            problem: format!(
                "another server uses the store {}. Each server needs a state_dir of its own, or a store_url",
                path.display()
            ),
        }),
        Err(TryLockError::Error(error)) => Err(unopened(&lock, &error)),
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Opens a file to read and write, made for its owner only if it is not there.
fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Whether there is anything in the file. SQLite takes some files that are not whole for empty ones, and reads what is missing
/// of a page as zeros.
fn check_beginning(path: &Path) -> Result<bool, OpenError> {
    let damaged = |what: &str| OpenError::Damaged { problem: format!("{} {what}", path.display()) };
    let unopened = |error| unopened(path, &error);
    let mut file = open_file(path).map_err(unopened)?;
    let size = file.metadata().map_err(unopened)?.len();
    if size == 0 {
        return Ok(false);
    }
    let mut header = [0; HEADER];
    match file.read_exact(&mut header) {
        Ok(()) if header.starts_with(MAGIC) => {}
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(unopened(error)),
        _ => return Err(damaged("is no file of SQLite, or only the beginning of one")),
    }
    let page = match u64::from(u16::from_be_bytes([header[16], header[17]])) {
        1 => 65_536,
        page => page,
    };
    // A server that was killed may have left the rest of a page in the log.
    let has_log = fs::metadata(beside(path, "-wal")).is_ok_and(|log| log.len() > 0);
    if !has_log && (page == 0 || size % page != 0) {
        return Err(damaged("is cut off"));
    }
    Ok(true)
}

fn unopened(path: &Path, error: &io::Error) -> OpenError {
    let problem = format!("{}: {error}", path.display());
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            OpenError::ReadOnly { problem }
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => OpenError::Full { problem },
        _ => OpenError::Failed { problem },
    }
}

/// Checks that the file is whole, and this program's.
async fn check(connection: &mut Connection, path: &Path) -> Result<(), OpenError> {
    let damaged = |problem: String| OpenError::Damaged { problem: format!("{}: {problem}", path.display()) };
    let found = connection.rows(&Statement::new("PRAGMA quick_check(1)")).await?;
    let words = found.into_iter().next().map(|mut row| row.text());
    match words {
        Some(Ok(words)) if words == "ok" => {}
        Some(Ok(words)) => return Err(damaged(words.lines().next().unwrap_or_default().to_owned())),
        _ => return Err(damaged("it cannot be checked".into())),
    }
    let id = connection.rows(&Statement::new("PRAGMA application_id")).await?;
    let tables = connection.rows(&Statement::new("SELECT count(*) FROM sqlite_schema")).await?;
    let number = |rows: Vec<_>| rows.into_iter().next().and_then(|mut row: Row| row.int().ok());
    if number(id) != Some(APPLICATION) && number(tables) != Some(0) {
        return Err(OpenError::Foreign { problem: format!("{} is another program's", path.display()) });
    }
    Ok(())
}
