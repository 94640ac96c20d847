//! SQLite as a store: a write-ahead log (`journal_mode=WAL`), which its documentation names the faster; in it
//! `synchronous=OFF` survives the death of the process, `FULL` the loss of power. Statements are prepared once and
//! kept; words are the row's own number, which is its fastest key.

use super::{CACHE, Kind, Setting, Store, Survives};
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

pub(super) const SQLITE: Kind = Kind {
    name: "SQLite",
    ours: false,
    open: |setting| Box::new(Sqlite::open(setting)),
    syncs: true,
    percent: 20,
};

struct Sqlite {
    path: PathBuf,
    survives: Survives,
    /// It has one writer at a time whatever there are of connections.
    writer: Mutex<Connection>,
}

impl Sqlite {
    fn open(setting: Setting<'_>) -> Sqlite {
        let survives = setting.survives;
        let path = setting.folder.join("sqlite");
        let writer = connect(&path, survives).expect("a connection");
        let made = writer.execute_batch(
            "CREATE TABLE IF NOT EXISTS words (k INTEGER PRIMARY KEY, v INTEGER NOT NULL);
             CREATE TABLE IF NOT EXISTS texts (k TEXT PRIMARY KEY, v TEXT NOT NULL) WITHOUT ROWID;",
        );
        made.expect("makes tables");
        Sqlite {
            path,
            survives,
            writer: Mutex::new(writer),
        }
    }

    fn writer(&self) -> MutexGuard<'_, Connection> {
        self.writer.lock().expect("nobody panics with it")
    }
}

fn connect(path: &Path, survives: Survives) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    let synchronous = match survives {
        Survives::Death => "OFF",
        Survives::PowerLoss => "FULL",
    };
    connection.pragma_update(None, "synchronous", synchronous)?;
    // Negative: in KiB.
    connection.pragma_update(None, "cache_size", -(CACHE as i64 >> 10))?;
    connection.pragma_update(None, "mmap_size", CACHE as i64)?;
    Ok(connection)
}

const INSERT: &str = "INSERT OR REPLACE INTO words VALUES (?1, ?2)";

impl Store for Sqlite {
    fn insert_words(&self, pairs: &[(u64, u64)]) {
        let mut writer = self.writer();
        let transaction = writer.transaction().expect("begins");
        {
            let mut insert = transaction.prepare_cached(INSERT).expect("prepares");
            for &(key, value) in pairs {
                insert.execute((key as i64, value as i64)).expect("inserts");
            }
        }
        transaction.commit().expect("commits");
    }

    fn insert_texts(&self, pairs: &[(String, String)]) {
        let mut writer = self.writer();
        let transaction = writer.transaction().expect("begins");
        {
            let insert = transaction.prepare_cached("INSERT OR REPLACE INTO texts VALUES (?1, ?2)");
            let mut insert = insert.expect("prepares");
            for (key, value) in pairs {
                insert.execute((key, value)).expect("inserts");
            }
        }
        transaction.commit().expect("commits");
    }

    fn clear(&self) {
        let cleared = self.writer().execute_batch(
            "DELETE FROM words; DELETE FROM texts; PRAGMA wal_checkpoint(TRUNCATE);",
        );
        cleared.expect("clears");
    }

    fn insert(&self, key: u64, value: u64) {
        let writer = self.writer();
        let mut insert = writer.prepare_cached(INSERT).expect("prepares");
        insert.execute((key as i64, value as i64)).expect("inserts");
    }

    fn read(&self, keys: &[u64]) -> u64 {
        // Of this thread alone: a connection is not shared.
        let reader = connect(&self.path, self.survives).expect("a connection");
        let transaction = reader.unchecked_transaction().expect("begins");
        let select = transaction.prepare("SELECT v FROM words WHERE k = ?1");
        let mut select = select.expect("prepares");
        keys.iter()
            .map(|key| {
                let value = select.query_row([*key as i64], |row| row.get::<_, i64>(0));
                value.expect("is there") as u64
            })
            .fold(0, u64::wrapping_add)
    }
}
