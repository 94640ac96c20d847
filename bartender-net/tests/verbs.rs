//! The contract of the fabric over RDMA, and what only RDMA has. Needs two devices that reach each other, named in
//! `BARTENDER_TEST_RDMA` ("rxe0,rxe1"); `cargo xtask vm test-rdma` makes them. Without it only the absence is tested.
#![cfg(all(
    feature = "rdma",
    target_os = "linux",
    target_pointer_width = "64",
    not(miri)
))]

mod contract;

use bartender_net::tls::{Authority, Identity};
use bartender_net::{
    Access, Error, Fabric, Memory, PersistMethod, Received, RemoteMemory, Roles, VerbsFabric,
    VerbsOptions,
};
use contract::memory::Plain;
use contract::{Pair, Story};
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Handle, Runtime};

fn devices() -> Option<(String, String)> {
    let names = std::env::var("BARTENDER_TEST_RDMA").ok()?;
    let (near, far) = names.split_once(',')?;
    Some((near.to_owned(), far.to_owned()))
}

fn fabric(device: &str) -> Result<VerbsFabric, Error> {
    let mut options = VerbsOptions::default();
    options.device = Some(device.to_owned());
    VerbsFabric::insecure(Handle::current(), options)
}

fn many() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

fn one() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn run(test: fn(Pair) -> Story) {
    run_on(many(), test);
}

fn run_on(runtime: Runtime, test: fn(Pair) -> Story) {
    let Some((near, far)) = devices() else {
        return;
    };
    runtime.block_on(async {
        let fabric = |name: &str| -> Arc<dyn Fabric> { Arc::new(fabric(name).unwrap()) };
        test(Pair {
            near: fabric(&near),
            far: fabric(&far),
            address: "127.0.0.1:0".into(),
        })
        .await;
    });
}

contract!(run);

#[test]
fn without_a_device_it_is_said_what_is_missing() {
    one().block_on(async {
        let error = fabric("nothing0").unwrap_err();
        let Error::NoDevice { what } = &error else {
            panic!("{error}");
        };
        assert!(!what.is_empty());
    });
}

#[test]
fn control_connections_can_be_secured() {
    let Some((near, far)) = devices() else { return };
    let (day, roles) = (Duration::from_secs(86_400), Roles::WRITER | Roles::NODE);
    let identity = |authority: &Authority| authority.issue("n", roles, day).unwrap();
    let ours = Authority::create(day).unwrap();
    let (good, foreign) = (identity(&ours), identity(&Authority::create(day).unwrap()));
    many().block_on(async {
        let fabric = |device: &str, identity: &Identity| {
            let mut options = VerbsOptions::default();
            options.device = Some(device.to_owned());
            VerbsFabric::secure(Handle::current(), identity, options).unwrap()
        };
        let (near, far, stranger) = (
            fabric(&near, &good),
            fabric(&far, &good),
            fabric(&near, &foreign),
        );
        let listener = far.listen("127.0.0.1:0").await.unwrap();
        assert!(stranger.connect(&listener.address()).await.is_err());
        let connection = near.connect(&listener.address()).await.unwrap();
        let accepted = listener.accept().await.unwrap();
        assert_eq!(accepted.peer().name, "n");
        assert_eq!(accepted.peer().roles, roles);
        connection.send("hello").await.unwrap();
        assert_eq!(
            accepted.recv().await.unwrap(),
            Received::Message("hello".into())
        );
        connection.close();
        accepted.closed().await;
    });
}

/// Keys of 32 bits can be guessed: who is no writer is denied whatever it names.
#[test]
fn a_reader_that_knows_the_key_of_writable_memory_cannot_write() {
    let Some((near, far)) = devices() else { return };
    let day = Duration::from_secs(86_400);
    let authority = Authority::create(day).unwrap();
    let reader = authority.issue("r", Roles::READER, day).unwrap();
    let node = authority.issue("n", Roles::NODE, day).unwrap();
    many().block_on(async {
        let fabric = |device: &str, identity: &Identity| {
            let mut options = VerbsOptions::default();
            options.device = Some(device.to_owned());
            VerbsFabric::secure(Handle::current(), identity, options).unwrap()
        };
        let (near, far) = (fabric(&near, &reader), fabric(&far, &node));
        let listener = far.listen("127.0.0.1:0").await.unwrap();
        let memory = Plain::new(64);
        let region = far.register(memory.clone(), Access::ALL).unwrap();
        let at = region.remote();
        for attempt in 0..3 {
            let connection = near.connect(&listener.address()).await.unwrap();
            let _accepted = listener.accept().await.unwrap();
            assert_eq!(connection.read(at, 0, 8).await.unwrap(), [0; 8][..]);
            match attempt {
                0 => contract::denied(connection.write(at, 0, vec![1; 8]).await),
                1 => contract::denied(connection.compare_swap(at, 0, 0, 1).await),
                _ => contract::denied(connection.fetch_add(at, 0, 1).await),
            }
            assert_eq!(memory.word(0), 0);
        }
    });
}

/// Memory whose owner says that what has left the card is durable.
struct Flushing(Arc<Plain>);

// SAFETY: as what is inside.
unsafe impl Memory for Flushing {
    fn base(&self) -> NonNull<u8> {
        self.0.base()
    }

    fn len(&self) -> u64 {
        self.0.len()
    }

    fn method(&self) -> PersistMethod {
        PersistMethod::ReadAfterWrite
    }

    fn persist(&self, ranges: &[(u64, u64)]) -> Result<(), String> {
        self.0.persist(ranges)
    }
}

#[test]
fn a_read_persists_only_where_the_target_declares_it_and_grants_reading() {
    run(|pair| {
        Box::pin(async move {
            for (access, by_processor) in [(Access::ALL, 0), (Access::WRITE, 1)] {
                let memory = Plain::new(4096);
                let flushing = Arc::new(Flushing(memory.clone()));
                let region = pair.far.register(flushing, access).unwrap();
                let (connection, _far) = pair.connect().await;
                let mut batch = connection.batch();
                let write = batch.write(region.remote(), 8, vec![1; 1000]);
                let persist = batch.persist(region.remote(), vec![(8, 1000)]);
                batch.post();
                write.await.unwrap();
                persist.await.unwrap();
                assert_eq!(memory.bytes(8, 1000), [1; 1000]);
                assert_eq!(memory.persisted.lock().unwrap().len(), by_processor);
            }
        })
    });
}

/// A file's pages, shared.
struct Mapped(NonNull<u8>, usize);

// SAFETY: a mapping may be reached by all threads.
unsafe impl Send for Mapped {}
// SAFETY: as above; only raw pointers lead to it.
unsafe impl Sync for Mapped {}

impl Mapped {
    fn new(path: &str, len: usize) -> std::io::Result<Arc<Mapped>> {
        use std::os::fd::AsRawFd;
        let mut options = std::fs::File::options();
        let file = options
            .read(true)
            .write(true)
            .create(!path.starts_with("/dev/dax"));
        let file = file.open(path)?;
        if !path.starts_with("/dev/dax") {
            file.set_len(len as u64)?;
        }
        let (protection, fd) = (libc::PROT_READ | libc::PROT_WRITE, file.as_raw_fd());
        let nowhere = std::ptr::null_mut();
        // SAFETY: a new mapping, anywhere.
        let base = unsafe { libc::mmap(nowhere, len, protection, libc::MAP_SHARED, fd, 0) };
        if base == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        Ok(Arc::new(Mapped(NonNull::new(base.cast()).unwrap(), len)))
    }

    fn byte(&self, at: usize) -> u8 {
        assert!(at < self.1);
        // SAFETY: inside the mapping.
        unsafe { self.0.as_ptr().add(at).read_volatile() }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: ours.
        unsafe { libc::munmap(self.0.as_ptr().cast(), self.1) };
    }
}

// SAFETY: mapped while it lives; reached by raw pointers only.
unsafe impl Memory for Mapped {
    fn base(&self) -> NonNull<u8> {
        self.0
    }

    fn len(&self) -> u64 {
        self.1 as u64
    }

    fn persist(&self, _: &[(u64, u64)]) -> Result<(), String> {
        Ok(())
    }
}

#[test]
fn memory_on_a_device_and_on_tmpfs_is_reached() {
    run(|pair| {
        Box::pin(async move {
            let shm = format!("/dev/shm/bartender-verbs-{}", std::process::id());
            let device = std::env::var("BARTENDER_TEST_DEVDAX").ok();
            for path in [Some(shm.clone()), device].into_iter().flatten() {
                let memory = Mapped::new(&path, 4 << 20).unwrap();
                let region = pair.far.register(memory.clone(), Access::ALL).unwrap();
                let (connection, _far) = pair.connect().await;
                let at = region.remote();
                connection.write(at, 100, vec![7; 100_000]).await.unwrap();
                connection.persist(at, vec![(100, 100_000)]).await.unwrap();
                let read = connection.read(at, 99, 100_002).await.unwrap();
                assert!(read[1..100_001].iter().all(|byte| *byte == 7), "{path}");
                assert_eq!((memory.byte(100), memory.byte(100_099)), (7, 7));
                println!("{path} is reached");
            }
            std::fs::remove_file(shm).unwrap();
        })
    });
}

#[test]
fn a_file_on_fsdax_is_refused_with_a_reason() {
    let Ok(folder) = std::env::var("BARTENDER_TEST_FSDAX") else {
        return;
    };
    let Some((near, _)) = devices() else { return };
    one().block_on(async {
        let memory = Mapped::new(&format!("{folder}/verbs"), 4 << 20).unwrap();
        let error = fabric(&near)
            .unwrap()
            .register(memory, Access::ALL)
            .unwrap_err();
        println!("{error}");
        assert!(matches!(error, Error::Register { .. }));
    });
}

/// What a peer has to know, as text.
fn told(address: &str, at: RemoteMemory) -> String {
    format!("{address} {} {} {}", at.key, at.base, at.len)
}

/// A process that can be killed: registers memory, says where, and waits.
#[test]
fn victim() {
    let (Ok(_), Some((_, far))) = (std::env::var("BARTENDER_TEST_VICTIM"), devices()) else {
        return;
    };
    one().block_on(async {
        let fabric = fabric(&far).unwrap();
        let memory = Plain::new(1 << 20);
        let region = fabric.register(memory, Access::ALL).unwrap();
        let listener = fabric.listen("127.0.0.1:0").await.unwrap();
        println!("\nvictim {}", told(&listener.address(), region.remote()));
        std::io::stdout().flush().unwrap();
        let connection = listener.accept().await.unwrap();
        connection.closed().await;
    });
}

#[test]
fn a_peer_that_is_killed_in_the_middle_breaks_the_connection() {
    let Some((near, _)) = devices() else { return };
    many().block_on(async {
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "victim", "--nocapture"])
            .env("BARTENDER_TEST_VICTIM", "1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines();
        let line = lines.find_map(|line| line.unwrap().strip_prefix("victim ").map(str::to_owned));
        let line = line.unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        let number = |i: usize| words[i].parse::<u64>().unwrap();
        let at = RemoteMemory {
            key: number(1),
            base: number(2),
            len: number(3),
            access: Access::ALL,
            method: PersistMethod::Acknowledged,
        };
        let connection = fabric(&near).unwrap().connect(words[0]).await.unwrap();
        connection.write(at, 0, vec![1; 64]).await.unwrap();
        let writes: Vec<_> = (0..200)
            .map(|_| connection.write(at, 0, vec![2; 50_000]))
            .collect();
        victim.kill().unwrap();
        victim.wait().unwrap();
        let mut failed = 0;
        for write in writes {
            match write.await {
                Ok(()) => assert_eq!(failed, 0),
                Err(error) => {
                    assert!(error.effect_unknown(), "{error}");
                    failed += 1;
                }
            }
        }
        connection.closed().await;
        assert!(connection.write(at, 0, vec![1; 64]).await.is_err());
        println!("{failed} of 200 writes failed");
    });
}

/// The contract leaves that open.
#[test]
fn barriers_run_in_the_order_in_which_they_were_posted() {
    run(|pair| {
        Box::pin(async move {
            let (connection, _far) = pair.connect().await;
            let (memory, region) = pair.memory(4096);
            let mut batch = connection.batch();
            let persists: Vec<_> = (0..200)
                .map(|i| batch.persist(region.remote(), vec![(8 * i, 8)]))
                .collect();
            batch.post();
            for persist in persists {
                persist.await.unwrap();
            }
            let persisted = memory.persisted.lock().unwrap();
            let order = persisted.iter().map(|(ranges, _)| ranges[0].0 / 8);
            assert!(order.eq(0..200), "{persisted:?}");
        })
    });
}

/// Takes the link of the first card down, or up again.
fn link(state: &str) {
    let device = std::env::var("BARTENDER_TEST_RDMA_LINK").unwrap();
    let done = Command::new("ip")
        .args(["link", "set", &device, state])
        .status();
    assert!(done.unwrap().success());
}

/// The control connection is over another link, and stays.
#[test]
fn a_peer_that_is_gone_without_a_word_is_noticed() {
    if devices().is_none() || std::env::var("BARTENDER_TEST_RDMA_LINK").is_err() {
        return;
    }
    run(|pair| {
        Box::pin(async move {
            // One has nothing under way, the other a wish whose answer never comes.
            let (idle, _idle_far) = pair.connect().await;
            let (asking, _asking_far) = pair.connect().await;
            let memory = Arc::new(Stuck(Plain::new(64)));
            let region = pair.far.register(memory.clone(), Access::ALL).unwrap();
            let asked = asking.persist(region.remote(), vec![(0, 8)]);
            tokio::time::sleep(Duration::from_millis(300)).await;
            link("down");
            let start = Instant::now();
            idle.closed().await;
            println!("noticed after {:?}", start.elapsed());
            assert!(asked.await.unwrap_err().effect_unknown());
            println!("and what was asked after {:?}", start.elapsed());
            link("up");
        })
    });
}

/// Memory whose barrier takes its time.
struct Stuck(Arc<Plain>);

// SAFETY: as what is inside.
unsafe impl Memory for Stuck {
    fn base(&self) -> NonNull<u8> {
        self.0.base()
    }

    fn len(&self) -> u64 {
        self.0.len()
    }

    fn persist(&self, _: &[(u64, u64)]) -> Result<(), String> {
        std::thread::sleep(Duration::from_secs(20));
        Ok(())
    }
}

/// Not a test: what a read of 64 bytes takes, for who compares.
#[test]
fn read_latency() {
    if std::env::var("BARTENDER_TEST_LATENCY").is_err() {
        return;
    }
    run_on(one(), |pair| {
        Box::pin(async move {
            let (connection, _far) = pair.connect().await;
            let (_memory, region) = pair.memory(4096);
            let mut times = Vec::new();
            for _ in 0..1000 {
                let start = Instant::now();
                connection.read(region.remote(), 0, 64).await.unwrap();
                times.push(start.elapsed());
            }
            times.sort();
            println!("\nread64 p50 {:.1} us", times[500].as_secs_f64() * 1e6);
        })
    });
}
