//! A member of a cluster over RDMA as a program of its own, for machines of its own: `cargo xtask vm failover` runs one in each of
//! two virtual ones, cuts the power of the primary's, and judges what they say. Here, without a card, only that this is said clearly
//! is tested.
//!
//! Transfer `n` follows from `n`, and the transaction that makes it sets the counter to `n`: from the counter follow all balances.

#![cfg(all(target_os = "linux", target_pointer_width = "64"))]

use bartender::{
    Cluster, Coordinator, Embedded, Error, Heap, PMutex, PVec, Persist, Replicated, VerbsOptions,
};
use bartender_dist::{RemoteCoordinator, serve_coordinator};
use bartender_net::tls::{Authority, Identity};
use bartender_net::{Fabric, Roles, TcpFabric, TcpOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

const MEMBERS: [&str; 2] = ["a", "b"];
const REGION: &str = "bank";
const ACCOUNTS: usize = 12;
/// How often a member commits alone, and with its backup, before it stops.
const COMMITS: u64 = 200;
/// Longer than an emulated machine may stand still.
const LEASE: Duration = Duration::from_secs(6);
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Persist)]
#[repr(C)]
struct Bank {
    accounts: PVec<PMutex<i64>>,
    made: PMutex<u64>,
}

impl Default for Bank {
    fn default() -> Bank {
        Bank {
            accounts: (0..ACCOUNTS).map(|_| PMutex::default()).collect(),
            made: PMutex::default(),
        }
    }
}

/// From, to, cents.
fn transfer_of(n: u64) -> (usize, usize, i64) {
    let r = n.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    let from = r as usize % ACCOUNTS;
    let to = (from + 1 + (r >> 16) as usize % (ACCOUNTS - 1)) % ACCOUNTS;
    (from, to, (r >> 32) as i64 % 1000)
}

fn transfer(heap: &Replicated<Bank>, n: u64) -> Result<(), Error> {
    let (from, to, cents) = transfer_of(n);
    heap.transaction(|tx| {
        let bank = heap.root();
        *tx.lock(&bank.made)? = n;
        *tx.lock(&bank.accounts[from])? -= cents;
        *tx.lock(&bank.accounts[to])? += cents;
        Ok(())
    })
}

/// How many transfers were made; that all of them are there, whole, and nothing else.
fn check(heap: &Replicated<Bank>) -> u64 {
    let bank = heap.root();
    let made = *bank.made.read();
    let mut balances = [0; ACCOUNTS];
    for n in 1..=made {
        let (from, to, cents) = transfer_of(n);
        balances[from] -= cents;
        balances[to] += cents;
    }
    for (i, account) in bank.accounts.iter().enumerate() {
        assert_eq!(*account.read(), balances[i], "account {i} after {made}");
    }
    heap.check().expect("nothing is lost or leaked");
    made
}

/// Says something to whoever listens, on a line of its own.
fn say(what: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{what}").expect("somebody listens");
    out.flush().expect("somebody listens");
}

/// What is there of a home: its bytes up to the last that is not zero, in pages, and their checksum.
fn digest(home: &bartender_pm::Frozen) -> String {
    let (mut page, mut crc, mut len) = ([0; 4096], 0, 0);
    for offset in (0..home.size()).step_by(page.len()) {
        let n = (home.size() - offset).min(page.len() as u64) as usize;
        home.read(offset, &mut page[..n]);
        if page[..n].iter().any(|&byte| byte != 0) {
            crc = crc32c::crc32c_append(crc, &offset.to_le_bytes());
            crc = crc32c::crc32c_append(crc, &page[..n]);
            len = offset + n as u64;
        }
    }
    format!("home {len} {crc:08x}")
}

/// What the card has sent and received.
fn packets() -> u64 {
    let counters = "/sys/class/infiniband/rxe0/ports/1/hw_counters";
    let read = |name| std::fs::read_to_string(format!("{counters}/{name}"));
    ["sent_pkts", "rcvd_pkts"]
        .into_iter()
        .filter_map(|name| read(name).ok()?.trim().parse::<u64>().ok())
        .sum()
}

fn variable(name: &str) -> Option<String> {
    std::env::var(format!("BARTENDER_MACHINE_{name}")).ok()
}

/// Writes the members' certificates.
#[test]
fn certificates() {
    let Some(folder) = variable("ISSUE").map(PathBuf::from) else {
        return;
    };
    let week = Duration::from_secs(7 * 86_400);
    let authority = Authority::create(week).expect("an authority");
    for name in MEMBERS {
        let identity = authority.issue(name, Roles::ALL, week);
        let saved = identity.and_then(|identity| identity.save(&folder));
        saved.expect("a folder without any");
    }
}

/// The last member has the coordinator, in a region of its own, and serves it over TCP.
async fn coordinator(
    identity: Identity,
    address: String,
    serve: Option<PathBuf>,
) -> bartender_dist::Result<Arc<dyn Coordinator>> {
    let fabric = TcpFabric::secure(Handle::current(), &identity, TcpOptions::default())?;
    let Some(path) = serve else {
        let remote = RemoteCoordinator::new(Arc::new(fabric), address);
        return Ok(Arc::new(remote));
    };
    let coordinator: Arc<dyn Coordinator> = Arc::new(Embedded::open(path)?);
    let listener = fabric.listen(&address).await?;
    tokio::spawn(serve_coordinator(coordinator.clone(), listener));
    Ok(coordinator)
}

/// A member. Says `reign EPOCH TRANSFERS MEDIUM` when its turn comes, `together` when the other member is in sync, `answered N`, what its
/// card has had to do, and the digest of its home. The first member commits until its power is cut; the other commits a little, alone and with its backup, and lets
/// the first go on when it is told to. In an ordinary run of the tests there is no such member.
#[test]
fn member() {
    let Some(name) = variable("NAME") else {
        return;
    };
    let need = |what| variable(what).expect("whoever names it says the rest");
    let (data, keys) = (PathBuf::from(need("DATA")), PathBuf::from(need("KEYS")));
    let orders = PathBuf::from(need("ORDERS"));
    let key = |what: &str| keys.join(what);
    let (own, private) = (format!("{name}.pem"), format!("{name}.key"));
    let identity = Identity::load(&key(&own), &key(&private), &key("authority.pem"));
    let identity = identity.expect("the certificates are there");
    let serve = (name != MEMBERS[0]).then(|| data.join("coordinator.region"));
    let mut options = Cluster::options(&name, "machines")
        .data(data)
        .listen(need("LISTEN"))
        .identity(identity.clone())
        .lease(LEASE)
        .max_size(16 << 20)
        .log_size(1 << 20);
    if let Some(card) = variable("CARD") {
        let mut verbs = VerbsOptions::default();
        verbs.device = Some(card);
        options = options.rdma(verbs);
    }
    say("");
    let cluster = options.join(|| coordinator(identity, need("COORDINATOR"), serve));
    let cluster = cluster.unwrap_or_else(|error| {
        say(&format!("failed {error}"));
        std::process::exit(1);
    });
    say(&format!("joined {}", cluster.address()));
    let (follower, its_orders) = (cluster.clone(), orders.clone());
    std::thread::spawn(move || follow(&follower, &its_orders));
    loop {
        let opened = match name == MEMBERS[0] {
            true => Heap::<Bank>::options()
                .replicas(MEMBERS)
                .open_in(&cluster, REGION),
            false => cluster.open::<Bank>(REGION),
        };
        let heap = opened.expect("its turn comes");
        let made = check(&heap);
        say(&format!(
            "reign {} {made} {}",
            heap.epoch(),
            heap.region().kind()
        ));
        let reigned = if name == MEMBERS[0] {
            work(&heap, made)
        } else {
            stand_in(&heap, made, &orders)
        };
        if let Err(error) = reigned {
            say(&format!("failed {error}"));
        }
    }
}

/// Commits for as long as it can.
fn work(heap: &Replicated<Bank>, made: u64) -> Result<(), Error> {
    together(heap);
    for n in made + 1.. {
        transfer(heap, n)?;
        say(&format!("answered {n}"));
    }
    Ok(())
}

/// Commits without the other member, then with it, and waits to be told that it may go.
fn stand_in(heap: &Replicated<Bank>, made: u64, orders: &Path) -> Result<(), Error> {
    for n in made + 1..=made + COMMITS {
        transfer(heap, n)?;
        say(&format!("answered {n}"));
    }
    together(heap);
    for n in made + COMMITS + 1..=made + 2 * COMMITS {
        transfer(heap, n)?;
        say(&format!("answered {n}"));
    }
    heap.region().checkpoint()?;
    let home = heap.region().freeze()?;
    say(&format!("card {}", packets()));
    say(&digest(&home));
    drop(home);
    while !ordered(orders, &format!("hand over {}", heap.epoch())) {
        heap.region().check_current()?;
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// Waits until the backup is in sync.
fn together(heap: &Replicated<Bank>) {
    let is_in_sync = |lag: &bartender::Lag| lag.live && lag.required;
    while !heap.is_fenced() && !heap.lags().iter().all(is_in_sync) {
        std::thread::sleep(PAUSE);
    }
    say("together");
}

fn ordered(orders: &Path, what: &str) -> bool {
    let order = std::fs::read_to_string(orders.join("order"));
    order.is_ok_and(|order| order.trim() == what)
}

/// Says what a copy that follows has at home, when that is wanted.
fn follow(cluster: &Cluster, orders: &Path) {
    loop {
        if ordered(orders, "compare")
            && let Some(home) = cluster.home(REGION)
        {
            say(&digest(&home));
        }
        std::thread::sleep(5 * PAUSE);
    }
}

#[test]
fn without_a_card_it_is_said_what_is_missing() {
    let mut verbs = VerbsOptions::default();
    verbs.device = Some("nothing0".into());
    let joined = Cluster::options("a", "machines")
        .insecure()
        .rdma(verbs)
        .join(|| async { Ok(Arc::new(Embedded::volatile()) as Arc<dyn Coordinator>) });
    let Err(Error::Cluster(bartender_dist::Error::Net(error))) = joined else {
        panic!("it joined, or failed for another reason: {joined:?}");
    };
    let bartender_net::Error::NoDevice { what } = &error else {
        panic!("{error}");
    };
    assert!(!what.is_empty());
    assert!(error.to_string().contains("RDMA"), "{error}");
}
