//! Heaps on three members of a cluster, over TCP with mutual TLS: what was answered is there after the primary has gone, and it goes on elsewhere.
//!
//! The first tests have all members in this process. The last ones have a process for each, and kill primaries by SIGKILL under load: with a
//! coordinator that this process serves, and with an etcd of their own, for which they need `BARTENDER_ETCD_SERVER` (the program) and the feature
//! `etcd`. `cargo xtask failover` does that more often (`BARTENDER_KILLS`).

use bartender::{
    Cluster, Coordinator, Embedded, Error, Heap, PHashMap, PMutex, Persist, Replicated,
};
use bartender_dist::coordinator::Counted;
use bartender_dist::{RemoteCoordinator, serve_coordinator};
use bartender_net::tls::{Authority, Identity};
use bartender_net::{Fabric, Roles, TcpFabric, TcpOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;

const MEMBERS: [&str; 3] = ["a", "b", "c"];
const DAY: Duration = Duration::from_secs(86_400);
const LEASE: Duration = Duration::from_millis(600);
/// Of members that are processes: etcd has no shorter one.
const KILLED_LEASE: Duration = Duration::from_secs(2);

#[derive(Persist, Default)]
#[repr(C)]
struct Counters {
    total: u64,
    by_member: PHashMap<u64, u64>,
}

type Root = PMutex<Counters>;

fn join(name: &str, data: &Path, identity: Identity, coordinator: Arc<dyn Coordinator>) -> Cluster {
    Cluster::options(name, "test")
        .data(data)
        .identity(identity)
        .lease(LEASE)
        .max_size(64 << 20)
        .log_size(4 << 20)
        .join(|| async { Ok(coordinator) })
        .expect("a member")
}

/// One more, for that member: the total after it.
fn count(heap: &Replicated<Root>, member: u64) -> Result<u64, Error> {
    heap.update(|mut counters| {
        let total = counters.total + 1;
        counters.total_mut().set(total)?;
        let own = counters.by_member.get(&member).copied().unwrap_or(0);
        counters.by_member_mut().insert(member, own + 1)?;
        Ok(total)
    })
}

fn check(heap: &Replicated<Root>) -> u64 {
    let counters = heap.read();
    let sum: u64 = counters.by_member.iter().map(|(_, n)| *n).sum();
    assert_eq!(sum, counters.total, "a transaction is whole or not there");
    let total = counters.total;
    drop(counters);
    heap.check().expect("nothing is lost or leaked");
    total
}

#[test]
fn what_was_answered_is_there_when_another_member_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let authority = Authority::create(DAY).expect("an authority");
    let coordinator: Arc<dyn Coordinator> = Arc::new(Embedded::volatile());
    let answered = AtomicU64::new(0);
    let reigns = AtomicU64::new(0);
    let mut clusters = Vec::new();
    for name in MEMBERS {
        let data = folder.path().join(name);
        std::fs::create_dir(&data).expect("a folder");
        let identity = authority
            .issue(name, Roles::ALL, DAY)
            .expect("a certificate");
        clusters.push(join(name, &data, identity, coordinator.clone()));
    }
    std::thread::scope(|scope| {
        for (i, cluster) in clusters.iter().enumerate() {
            let (answered, reigns, clusters) = (&answered, &reigns, &clusters);
            scope.spawn(move || {
                loop {
                    let opened = Heap::<Root>::options()
                        .replicas(MEMBERS)
                        .open_in(cluster, "counters");
                    let heap = match opened {
                        Ok(heap) => heap,
                        Err(Error::Cluster(bartender_dist::Error::Left)) => return,
                        Err(error) => panic!("{error}"),
                    };
                    assert!(check(&heap) >= answered.load(Ordering::Acquire));
                    for _ in 0..50 {
                        let total = count(&heap, i as u64).expect("it is the primary");
                        answered.fetch_max(total, Ordering::AcqRel);
                    }
                    drop(heap);
                    if reigns.fetch_add(1, Ordering::Relaxed) == 5 {
                        return clusters.iter().for_each(Cluster::leave);
                    }
                }
            });
        }
    });
    assert!(reigns.into_inner() >= 6 && answered.into_inner() >= 300);
}

#[test]
fn commits_ask_the_coordinator_nothing() {
    let commits = std::env::var("BARTENDER_COMMITS").ok();
    let commits: u64 = commits.and_then(|n| n.parse().ok()).unwrap_or(20_000);
    let folder = tempfile::tempdir().expect("a folder");
    let authority = Authority::create(DAY).expect("an authority");
    let counted = Arc::new(Counted::new(Embedded::volatile()));
    let mut clusters = Vec::new();
    for name in MEMBERS {
        let data = folder.path().join(name);
        std::fs::create_dir(&data).expect("a folder");
        let identity = authority.issue(name, Roles::ALL, DAY);
        let identity = identity.expect("a certificate");
        clusters.push(join(name, &data, identity, counted.clone()));
    }
    std::thread::scope(|scope| {
        // The others follow.
        for cluster in &clusters[1..] {
            scope.spawn(|| drop(cluster.open::<Root>("counters")));
        }
        let heap = Heap::<Root>::options()
            .replicas(MEMBERS)
            .open_in(&clusters[0], "counters")
            .expect("this member's turn");
        while !heap.lags().iter().all(|lag| lag.live && lag.required) {
            std::thread::sleep(Duration::from_millis(10));
        }
        // What the last change of the records made members read.
        std::thread::sleep(Duration::from_millis(300));
        let before = counted.calls();
        std::thread::scope(|scope| {
            for i in 0..8 {
                let heap = &heap;
                scope.spawn(move || {
                    for _ in 0..commits / 8 {
                        count(heap, i).expect("it is the primary");
                    }
                });
            }
        });
        assert_eq!(
            counted.calls(),
            before,
            "calls in {commits} commits, beats apart"
        );
        assert_eq!(heap.read().total, commits / 8 * 8);
        clusters.iter().for_each(Cluster::leave);
    });
}

#[test]
fn a_region_that_somebody_waits_for_already_is_made() {
    let folder = tempfile::tempdir().expect("a folder");
    let authority = Authority::create(DAY).expect("an authority");
    let identity = authority.issue("a", Roles::ALL, DAY);
    let identity = identity.expect("a certificate");
    let coordinator = Arc::new(Embedded::volatile());
    let a = join("a", folder.path(), identity, coordinator);
    std::thread::scope(|scope| {
        // It does not say how the region is made, and the cluster has none.
        scope.spawn(|| drop(a.open::<Root>("counters")));
        std::thread::sleep(LEASE / 4);
        let options = Heap::<Root>::options().replicas(["a"]);
        let heap = options.open_in(&a, "counters").expect("its turn");
        count(&heap, 1).expect("it is the primary");
    });
}

#[test]
fn who_leaves_lets_its_copies_go() {
    let folder = tempfile::tempdir().expect("a folder");
    let authority = Authority::create(DAY).expect("an authority");
    let coordinator: Arc<dyn Coordinator> = Arc::new(Embedded::volatile());
    let member = |name: &str| {
        let data = folder.path().join(name);
        std::fs::create_dir_all(&data).expect("a folder");
        let identity = authority.issue(name, Roles::ALL, DAY);
        join(
            name,
            &data,
            identity.expect("a certificate"),
            coordinator.clone(),
        )
    };
    let [a, b] = ["a", "b"].map(member);
    std::thread::scope(|scope| {
        scope.spawn(|| drop(b.open::<Root>("counters")));
        let heap = Heap::<Root>::options().replicas(["a", "b"]);
        let heap = heap.open_in(&a, "counters").expect("this member's turn");
        let in_sync = || heap.lags().iter().any(|lag| lag.live && lag.required);
        while !in_sync() {
            std::thread::sleep(Duration::from_millis(5));
        }
        // Somebody still has a handle of the life before.
        b.leave();
        let file = std::fs::File::open(folder.path().join("b/counters.region"));
        let file = file.expect("its copy stays");
        let start = std::time::Instant::now();
        while file.try_lock().is_err() {
            assert!(start.elapsed() < DAY / 2000, "nobody lets go of it");
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(file);
        let again = member("b");
        let waiting = again.clone();
        scope.spawn(move || drop(waiting.open::<Root>("counters")));
        while !in_sync() {
            std::thread::sleep(Duration::from_millis(5));
        }
        count(&heap, 1).expect("it is the primary");
        drop(heap);
        [&a, &again].into_iter().for_each(Cluster::leave);
    });
}

#[test]
fn damaged_copies_are_repaired_while_the_heap_is_used() {
    let folder = tempfile::tempdir().expect("a folder");
    let authority = Authority::create(DAY).expect("an authority");
    let coordinator: Arc<dyn Coordinator> = Arc::new(Embedded::volatile());
    let mut clusters = Vec::new();
    for name in MEMBERS {
        let data = folder.path().join(name);
        std::fs::create_dir(&data).expect("a folder");
        let identity = authority.issue(name, Roles::ALL, DAY);
        let identity = identity.expect("a certificate");
        clusters.push(join(name, &data, identity, coordinator.clone()));
    }
    std::thread::scope(|scope| {
        // The others follow.
        for cluster in &clusters[1..] {
            scope.spawn(|| drop(cluster.open::<Root>("counters")));
        }
        let heap = Heap::<Root>::options()
            .replicas(MEMBERS)
            .open_in(&clusters[0], "counters")
            .expect("this member's turn");
        while !heap.lags().iter().all(|lag| lag.live && lag.required) {
            std::thread::sleep(Duration::from_millis(10));
        }
        count(&heap, 1).expect("it is the primary");
        assert!(heap.scrub().expect("it is the primary").is_sound());
        // Pages at the end, of two copies.
        for (name, page) in [("a", 1), ("c", 2)] {
            let file = folder.path().join(name).join("counters.region");
            let mut options = std::fs::File::options();
            let file = options.write(true).open(file).expect("a copy");
            let at = file.metadata().expect("a file").len() - page * 4096;
            file.write_all_at(&[0xee; 4096], at).expect("a file");
        }
        let done = AtomicU64::new(0);
        let report = std::thread::scope(|scope| {
            scope.spawn(|| {
                while done.load(Ordering::Acquire) == 0 {
                    count(&heap, 2).expect("it is the primary");
                }
            });
            let report = heap.scrub();
            done.store(1, Ordering::Release);
            report.expect("it is the primary")
        });
        assert!(report.is_sound(), "{report:?}");
        let repaired: Vec<&str> = report.repaired.iter().map(|r| &r.member[..]).collect();
        assert_eq!(repaired, ["c", "a"]);
        check(&heap);
        clusters.iter().for_each(Cluster::leave);
    });
}

/// The coordinator at an endpoint as [`Keeper`] says it.
async fn coordinator_at(
    endpoint: String,
    identity: Identity,
) -> bartender_dist::Result<Arc<dyn Coordinator>> {
    #[cfg(feature = "etcd")]
    if endpoint.starts_with("http") {
        let options = bartender_dist::EtcdOptions::new([endpoint]);
        return Ok(Arc::new(bartender_dist::Etcd::connect(&options).await?));
    }
    let (handle, options) = (Handle::current(), TcpOptions::default());
    let fabric = TcpFabric::secure(handle, &identity, options)?;
    Ok(Arc::new(RemoteCoordinator::new(Arc::new(fabric), endpoint)))
}

/// A member as a process: says when it reigns, and each total that was answered. It is killed.
#[test]
fn member() {
    use std::io::Write;
    let Ok(name) = std::env::var("BARTENDER_FAILOVER_MEMBER") else {
        return;
    };
    #[cfg(feature = "cli")]
    if let Ok(filter) = std::env::var("BARTENDER_LOG") {
        let log = tracing_subscriber::fmt().with_env_filter(filter);
        log.with_writer(std::io::stderr).init();
    }
    let folder = std::env::var("BARTENDER_FAILOVER_FOLDER").expect("the parent says it");
    let endpoint = std::env::var("BARTENDER_FAILOVER_COORDINATOR").expect("the parent says it");
    let folder = Path::new(&folder);
    let file = |what: String| folder.join("keys").join(what);
    let identity = Identity::load(
        &file(format!("{name}.pem")),
        &file(format!("{name}.key")),
        &file("authority.pem".into()),
    )
    .expect("the parent saved them");
    let cluster = Cluster::options(&name, "failover")
        .data(folder.join(&name))
        .identity(identity.clone())
        .lease(KILLED_LEASE)
        .max_size(64 << 20)
        .log_size(4 << 20)
        .join(|| coordinator_at(endpoint, identity))
        .expect("a member");
    let mut out = std::io::stdout().lock();
    loop {
        let heap = Heap::<Root>::options()
            .replicas(MEMBERS)
            .open_in(&cluster, "counters")
            .expect("this member's turn");
        let total = check(&heap);
        writeln!(out, "\nreign {} {total}", heap.epoch()).expect("the parent reads");
        out.flush().expect("the parent reads");
        let member = name.as_bytes()[0].into();
        loop {
            match count(&heap, member) {
                Ok(total) => {
                    let backups = heap.lags().iter().filter(|lag| lag.required).count();
                    writeln!(out, "answered {backups} {total}").expect("the parent reads");
                    out.flush().expect("the parent reads");
                }
                Err(Error::Region(bartender_pm::Error::Fenced { .. })) => break,
                Err(error) => {
                    writeln!(out, "\nfailed {error}").expect("the parent reads");
                    break;
                }
            }
        }
    }
}

/// A coordinator for members that are processes, and where they find it. It ends with this value.
enum Keeper {
    /// In this process.
    Served(
        #[expect(dead_code, reason = "its tasks run in it")] tokio::runtime::Runtime,
        String,
    ),
    Etcd(Etcd),
}

impl Keeper {
    fn serve(authority: &Authority) -> Keeper {
        let runtime = tokio::runtime::Runtime::new().expect("threads");
        let identity = authority.issue("keeper", Roles::NODE, DAY);
        let identity = identity.expect("a certificate");
        let address = runtime.block_on(async {
            let (handle, options) = (Handle::current(), TcpOptions::default());
            let fabric = TcpFabric::secure(handle, &identity, options).expect("sound");
            let listener = fabric.listen("127.0.0.1:0").await.expect("a port");
            let address = listener.address();
            tokio::spawn(serve_coordinator(Arc::new(Embedded::volatile()), listener));
            address
        });
        Keeper::Served(runtime, format!("keeper@{address}"))
    }

    fn endpoint(&self) -> &str {
        match self {
            Keeper::Served(_, endpoint) => endpoint,
            Keeper::Etcd(etcd) => &etcd.endpoint,
        }
    }
}

/// An etcd server, which ends with this value.
struct Etcd {
    #[expect(dead_code, reason = "it is killed with it")]
    child: Member,
    endpoint: String,
}

impl Etcd {
    fn start(program: &std::ffi::OsStr, folder: &Path) -> Etcd {
        use std::net::{TcpListener, TcpStream};
        let free = || {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            listener.local_addr().expect("bound").to_string()
        };
        let (client, peer) = (free(), free());
        let (endpoint, peers) = (format!("http://{client}"), format!("http://{peer}"));
        let child = std::process::Command::new(program)
            .args(["--data-dir".as_ref(), folder.join("etcd").as_os_str()])
            .args([
                "--listen-client-urls",
                &endpoint,
                "--advertise-client-urls",
                &endpoint,
            ])
            .args([
                "--listen-peer-urls",
                &peers,
                "--initial-advertise-peer-urls",
                &peers,
            ])
            .args([
                "--initial-cluster",
                &format!("default={peers}"),
                "--log-level",
                "error",
            ])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("etcd starts");
        while TcpStream::connect(&client).is_err() {
            std::thread::sleep(Duration::from_millis(20));
        }
        Etcd {
            child: Member(child),
            endpoint,
        }
    }
}

/// What a member said, and who.
enum Said {
    Reign(usize, u64),
    /// With so many backups that have it.
    Answered(usize, usize, u64),
}

/// A process that is killed with this value, also when the test fails.
struct Member(std::process::Child);

impl Member {
    fn kill(&mut self) {
        let _ = self.0.kill();
        self.0.wait().expect("it ran");
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(
    i: usize,
    folder: &Path,
    keeper: &Keeper,
    said: std::sync::mpsc::Sender<(std::time::Instant, Said)>,
) -> Member {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "member", "--nocapture", "--test-threads=1"])
        .env("BARTENDER_FAILOVER_MEMBER", MEMBERS[i])
        .env("BARTENDER_FAILOVER_FOLDER", folder)
        .env("BARTENDER_FAILOVER_COORDINATOR", keeper.endpoint())
        .stdout(Stdio::piped())
        .spawn()
        .expect("this program starts");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let mut words = line.split(' ');
            let what = match (words.next(), words.next_back().and_then(|w| w.parse().ok())) {
                (Some("reign"), Some(total)) => Said::Reign(i, total),
                (Some("answered"), Some(total)) => {
                    let backups = words.next().and_then(|w| w.parse().ok());
                    Said::Answered(i, backups.unwrap_or(0), total)
                }
                (Some("failed"), _) => {
                    println!("{}: {line}", MEMBERS[i]);
                    continue;
                }
                _ => continue,
            };
            if said.send((std::time::Instant::now(), what)).is_err() {
                return;
            }
        }
    });
    Member(child)
}

#[test]
fn primaries_killed_under_load_lose_nothing() {
    killed_under_load(|authority, _| Keeper::serve(authority));
}

#[test]
fn primaries_killed_under_load_lose_nothing_with_etcd() {
    let server = std::env::var_os("BARTENDER_ETCD_SERVER");
    match server.filter(|_| cfg!(feature = "etcd")) {
        Some(server) => killed_under_load(|_, folder| Keeper::Etcd(Etcd::start(&server, folder))),
        None => println!("skipped: no feature `etcd`, or BARTENDER_ETCD_SERVER names no program"),
    }
}

/// Kills the primary again and again while it commits.
fn killed_under_load(keeper: impl FnOnce(&Authority, &Path) -> Keeper) {
    use std::time::Instant;
    let rounds = std::env::var("BARTENDER_KILLS")
        .ok()
        .and_then(|n| n.parse().ok());
    let rounds: usize = rounds.unwrap_or(2);
    let folder = tempfile::tempdir().expect("a folder");
    let authority = Authority::create(DAY).expect("an authority");
    let keeper = keeper(&authority, folder.path());
    let keys = folder.path().join("keys");
    std::fs::create_dir(&keys).expect("a folder");
    for name in MEMBERS {
        std::fs::create_dir(folder.path().join(name)).expect("a folder");
        let identity = authority
            .issue(name, Roles::ALL, DAY)
            .expect("a certificate");
        identity.save(&keys).expect("saved");
    }
    let (sender, said) = std::sync::mpsc::channel();
    let mut children: Vec<_> = (0..MEMBERS.len())
        .map(|i| Some(spawn(i, folder.path(), &keeper, sender.clone())))
        .collect();
    let (mut answered, mut killed_at, mut killed) = (0, None::<Instant>, 0);
    let mut took = Vec::new();
    let mut since_reign = 0;
    let mut dead = None;
    let start = Instant::now();
    while took.len() < rounds {
        assert!(
            start.elapsed() < Duration::from_secs(30 + 20 * rounds as u64),
            "stuck"
        );
        let Ok((at, what)) = said.recv_timeout(Duration::from_secs(30)) else {
            panic!("nobody goes on after {killed} deaths, {answered} answered");
        };
        let (i, backups, total) = match what {
            Said::Reign(i, total) => {
                assert!(
                    total >= answered,
                    "{answered} was answered, {total} is there"
                );
                // One that was not answered may be there as well.
                answered = total;
                since_reign = 0;
                println!("{} reigns with {total}", MEMBERS[i]);
                continue;
            }
            Said::Answered(i, backups, total) => (i, backups, total),
        };
        if Some(i) == dead {
            // Written before it was killed, read after.
            answered = answered.max(total);
            continue;
        }
        assert_eq!(total, answered + 1, "one after the other");
        answered = total;
        since_reign += 1;
        if let Some(killed) = killed_at.take() {
            took.push(at.saturating_duration_since(killed));
            // The dead one comes back.
            if let Some(dead) = dead.take() {
                children[dead] = Some(spawn(dead, folder.path(), &keeper, sender.clone()));
            }
        }
        // Who is dead comes back when another one has committed: somebody who has everything has to be left.
        if since_reign >= 1500 && backups == MEMBERS.len() - 1 {
            let mut child = children[i].take().expect("it speaks");
            killed_at = Some(Instant::now());
            child.kill();
            (dead, killed) = (Some(i), killed + 1);
        }
    }
    drop(children);
    took.sort();
    let at = |part: usize| took[(took.len() * part / 100).min(took.len() - 1)];
    println!(
        "{killed} primaries killed, {answered} transactions answered, 0 lost; to the first commit after, with a lease of {KILLED_LEASE:?}: p50 {:?}, p99 {:?}",
        at(50),
        at(99)
    );
}
