//! redb, heed (LMDB), fjall and sled as stores.

use super::{CACHE, Kind, Setting, Store, Survives};

/// redb. `Durability::Immediate`, its default, in both cases: `None` would not survive the death of the process.
pub(super) const REDB: Kind = Kind {
    name: "redb",
    ours: false,
    open: |setting| {
        let database = redb::Database::builder()
            .set_cache_size(CACHE)
            .create(setting.folder.join("redb"))
            .expect("a database");
        let store = Redb(database);
        store.insert_words(&[]);
        Box::new(store)
    },
    syncs: true,
    percent: 4,
};

struct Redb(redb::Database);

const WORDS: redb::TableDefinition<'_, u64, u64> = redb::TableDefinition::new("words");
const TEXTS: redb::TableDefinition<'_, &str, &str> = redb::TableDefinition::new("texts");

impl Store for Redb {
    fn insert_words(&self, pairs: &[(u64, u64)]) {
        let transaction = self.0.begin_write().expect("begins");
        {
            let mut table = transaction.open_table(WORDS).expect("a table");
            for (key, value) in pairs {
                table.insert(key, value).expect("inserts");
            }
        }
        transaction.commit().expect("commits");
    }

    fn insert_texts(&self, pairs: &[(String, String)]) {
        let transaction = self.0.begin_write().expect("begins");
        {
            let mut table = transaction.open_table(TEXTS).expect("a table");
            for (key, value) in pairs {
                table.insert(&**key, &**value).expect("inserts");
            }
        }
        transaction.commit().expect("commits");
    }

    fn clear(&self) {
        let transaction = self.0.begin_write().expect("begins");
        transaction.delete_table(WORDS).expect("clears");
        transaction.delete_table(TEXTS).expect("clears");
        transaction.open_table(WORDS).expect("a table");
        transaction.commit().expect("commits");
    }

    fn insert(&self, key: u64, value: u64) {
        self.insert_words(&[(key, value)]);
    }

    fn read(&self, keys: &[u64]) -> u64 {
        use redb::ReadableDatabase;
        let transaction = self.0.begin_read().expect("begins");
        let table = transaction.open_table(WORDS).expect("a table");
        let get = |key| table.get(key).expect("reads").expect("is there").value();
        keys.iter().map(get).fold(0, u64::wrapping_add)
    }
}

/// LMDB. With `NO_SYNC` a commit is in the page cache and survives the process; without it, the power loss. Its pages
/// are written through the map, the faster of its two ways.
pub(super) const HEED: Kind = Kind {
    name: "heed",
    ours: false,
    open: |setting| Box::new(Heed::open(setting).expect("an environment")),
    syncs: true,
    percent: 20,
};

type Words =
    heed::Database<heed::types::U64<heed::byteorder::BE>, heed::types::U64<heed::byteorder::BE>>;

struct Heed {
    environment: heed::Env,
    words: Words,
    texts: heed::Database<heed::types::Str, heed::types::Str>,
}

impl Heed {
    fn open(setting: Setting<'_>) -> heed::Result<Heed> {
        let folder = setting.folder.join("heed");
        std::fs::create_dir_all(&folder)?;
        let mut flags = heed::EnvFlags::WRITE_MAP;
        if setting.survives == Survives::Death {
            flags |= heed::EnvFlags::NO_SYNC;
        }
        let mut options = heed::EnvOpenOptions::new();
        options.map_size(8 << 30).max_dbs(2);
        // SAFETY: nobody else has the file, which is on a local file system; with the flags a loss of power may cost
        // it, which is what the workload in shared memory allows.
        let environment = unsafe { options.flags(flags).open(&folder)? };
        let mut transaction = environment.write_txn()?;
        let words = environment.create_database(&mut transaction, Some("words"))?;
        let texts = environment.create_database(&mut transaction, Some("texts"))?;
        transaction.commit()?;
        Ok(Heed {
            environment,
            words,
            texts,
        })
    }
}

impl Store for Heed {
    fn insert_words(&self, pairs: &[(u64, u64)]) {
        let mut transaction = self.environment.write_txn().expect("begins");
        for (key, value) in pairs {
            let put = self.words.put(&mut transaction, key, value);
            put.expect("inserts");
        }
        transaction.commit().expect("commits");
    }

    fn insert_texts(&self, pairs: &[(String, String)]) {
        let mut transaction = self.environment.write_txn().expect("begins");
        for (key, value) in pairs {
            let put = self.texts.put(&mut transaction, key, value);
            put.expect("inserts");
        }
        transaction.commit().expect("commits");
    }

    fn clear(&self) {
        let mut transaction = self.environment.write_txn().expect("begins");
        self.words.clear(&mut transaction).expect("clears");
        self.texts.clear(&mut transaction).expect("clears");
        transaction.commit().expect("commits");
    }

    fn insert(&self, key: u64, value: u64) {
        self.insert_words(&[(key, value)]);
    }

    fn read(&self, keys: &[u64]) -> u64 {
        let transaction = self.environment.read_txn().expect("begins");
        let get = |key| {
            let value = self.words.get(&transaction, key).expect("reads");
            value.expect("is there")
        };
        keys.iter().map(get).fold(0, u64::wrapping_add)
    }
}

/// fjall. Each write is handed to the operating system, which the process's death leaves alone; a persist by
/// `SyncData` behind it is for the loss of power.
pub(super) const FJALL: Kind = Kind {
    name: "fjall",
    ours: false,
    open: |setting| Box::new(Fjall::open(setting).expect("a database")),
    syncs: true,
    percent: 100,
};

struct Fjall {
    database: fjall::Database,
    words: fjall::Keyspace,
    texts: fjall::Keyspace,
    mode: fjall::PersistMode,
}

impl Fjall {
    fn open(setting: Setting<'_>) -> fjall::Result<Fjall> {
        let database = fjall::Database::builder(setting.folder.join("fjall"))
            .cache_size(CACHE as u64)
            .open()?;
        let keyspace = |name: &str| database.keyspace(name, fjall::KeyspaceCreateOptions::default);
        Ok(Fjall {
            words: keyspace("words")?,
            texts: keyspace("texts")?,
            mode: match setting.survives {
                Survives::Death => fjall::PersistMode::Buffer,
                Survives::PowerLoss => fjall::PersistMode::SyncData,
            },
            database,
        })
    }

    fn batch(&self, n: usize) -> fjall::OwnedWriteBatch {
        let batch = fjall::OwnedWriteBatch::with_capacity(self.database.clone(), n);
        batch.durability(Some(self.mode))
    }
}

impl Store for Fjall {
    fn insert_words(&self, pairs: &[(u64, u64)]) {
        let mut batch = self.batch(pairs.len());
        for (key, value) in pairs {
            batch.insert(&self.words, key.to_be_bytes(), value.to_be_bytes());
        }
        batch.commit().expect("commits");
    }

    fn insert_texts(&self, pairs: &[(String, String)]) {
        let mut batch = self.batch(pairs.len());
        for (key, value) in pairs {
            batch.insert(&self.texts, key.as_str(), value.as_str());
        }
        batch.commit().expect("commits");
    }

    fn clear(&self) {
        self.words.clear().expect("clears");
        self.texts.clear().expect("clears");
    }

    fn insert(&self, key: u64, value: u64) {
        let inserted = self.words.insert(key.to_be_bytes(), value.to_be_bytes());
        inserted.expect("inserts");
        if self.mode != fjall::PersistMode::Buffer {
            self.database.persist(self.mode).expect("persists");
        }
    }

    fn read(&self, keys: &[u64]) -> u64 {
        let get = |key: &u64| {
            let value = self.words.get(key.to_be_bytes()).expect("reads");
            word(&value.expect("is there"))
        };
        keys.iter().map(get).fold(0, u64::wrapping_add)
    }
}

/// sled. `flush` after what has to survive: what it has not flushed is in the process's memory. On Linux that ends with
/// `sync_file_range`, which leaves what it wrote in the disk's cache.
pub(super) const SLED: Kind = Kind {
    name: "sled",
    ours: false,
    open: |setting| {
        let database = sled::Config::default()
            .path(setting.folder.join("sled"))
            .cache_capacity(CACHE as u64)
            .mode(sled::Mode::HighThroughput)
            .flush_every_ms(None)
            .open()
            .expect("a database");
        Box::new(Sled {
            words: database.open_tree("words").expect("a tree"),
            texts: database.open_tree("texts").expect("a tree"),
        })
    },
    syncs: false,
    percent: 4,
};

struct Sled {
    words: sled::Tree,
    texts: sled::Tree,
}

impl Store for Sled {
    fn insert_words(&self, pairs: &[(u64, u64)]) {
        let mut batch = sled::Batch::default();
        for (key, value) in pairs {
            batch.insert(&key.to_be_bytes(), &value.to_be_bytes());
        }
        self.words.apply_batch(batch).expect("inserts");
        self.words.flush().expect("flushes");
    }

    fn insert_texts(&self, pairs: &[(String, String)]) {
        let mut batch = sled::Batch::default();
        for (key, value) in pairs {
            batch.insert(key.as_str(), value.as_str());
        }
        self.texts.apply_batch(batch).expect("inserts");
        self.texts.flush().expect("flushes");
    }

    fn clear(&self) {
        for tree in [&self.words, &self.texts] {
            tree.clear().expect("clears");
            tree.flush().expect("flushes");
        }
    }

    fn insert(&self, key: u64, value: u64) {
        let inserted = self.words.insert(key.to_be_bytes(), &value.to_be_bytes());
        inserted.expect("inserts");
        self.words.flush().expect("flushes");
    }

    fn read(&self, keys: &[u64]) -> u64 {
        let get = |key: &u64| {
            let value = self.words.get(key.to_be_bytes()).expect("reads");
            word(&value.expect("is there"))
        };
        keys.iter().map(get).fold(0, u64::wrapping_add)
    }
}

fn word(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes.try_into().expect("eight bytes"))
}
