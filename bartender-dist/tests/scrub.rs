//! Copies in files, damaged behind the back of those who keep them.

use bartender_dist::{
    Embedded, Folder, Hosting, Node, NodeOptions, Policy, Scrubbed, Serving, Wanted,
};
use bartender_net::Fabric;
use bartender_net::sim::{Network, Settings, run};
use bartender_pm::{Durability, Options, Record, Region};
use std::future::Future;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

const REGION: &str = "bank";
const PAGE: u64 = 4096;
const NAMES: [&str; 3] = ["a", "b", "c"];

struct Cluster {
    network: Network,
    coordinator: Arc<Embedded>,
    names: Vec<String>,
    nodes: Vec<Node>,
    turns: Vec<Hosting>,
    serving: Serving,
    folder: tempfile::TempDir,
}

/// A machine with its copy in a folder.
async fn start(
    fabric: Arc<dyn Fabric>,
    coordinator: &Arc<Embedded>,
    names: &[String],
    i: usize,
    data: PathBuf,
) -> (Node, Hosting) {
    let mut options = Options::new();
    options
        .max_size(8 << 20)
        .log_size(64 << 10)
        .background(false);
    let store = Arc::new(Folder::new(data, options));
    let options = NodeOptions::new(&names[i], "test").scrub_every(None);
    let node = Node::start(options, &names[i], fabric, coordinator.clone(), store).await;
    let node = node.expect("starts");
    let wanted = Wanted {
        replicas: names.to_vec(),
        policy: Policy::Block,
    };
    let turn = node.host(REGION, Some(wanted));
    (node, turn)
}

impl Cluster {
    /// So many machines; the first is primary, and the others have everything.
    async fn new(network: &Network, machines: usize) -> Cluster {
        let folder = tempfile::tempdir().expect("a folder");
        let coordinator = Arc::new(Embedded::volatile());
        let names: Vec<String> = NAMES[..machines].iter().map(|n| n.to_string()).collect();
        let (mut nodes, mut turns) = (Vec::new(), Vec::new());
        for (i, name) in names.iter().enumerate() {
            let data = folder.path().join(name);
            std::fs::create_dir(&data).expect("a folder");
            let fabric = network.node(name);
            let (node, turn) = start(fabric, &coordinator, &names, i, data).await;
            turns.push(turn);
            nodes.push(node);
            if turns.len() == 1 {
                // The others find its record.
                sleep(Duration::from_secs(1)).await;
            }
        }
        let serving = turns[0].serve().await.expect("its turn");
        let cluster = Cluster {
            network: network.clone(),
            coordinator,
            names,
            nodes,
            turns,
            serving,
            folder,
        };
        cluster.all_follow().await;
        cluster
    }

    async fn all_follow(&self) {
        while !(self.serving.lags().iter()).all(|lag| lag.live && lag.required) {
            sleep(Duration::from_millis(20)).await;
        }
    }

    fn file(&self, i: usize) -> PathBuf {
        let name = format!("{REGION}.region");
        self.folder.path().join(NAMES[i]).join(name)
    }

    /// The file of machine `i`, and where its home starts.
    fn home(&self, i: usize) -> (std::fs::File, u64) {
        let mut options = std::fs::File::options();
        let file = options.read(true).write(true).open(self.file(i));
        let file = file.expect("a copy");
        let mut word = [0; 8];
        for block in [0, 4096] {
            file.read_exact_at(&mut word, block + 48).expect("a header");
            if word != [0; 8] {
                break;
            }
        }
        (file, u64::from_le_bytes(word))
    }

    fn damage(&self, i: usize, page: u64, byte: u8) {
        let (file, home) = self.home(i);
        let bytes = [byte; PAGE as usize];
        file.write_all_at(&bytes, home + page * PAGE).expect("ok");
    }

    fn byte(&self, i: usize, page: u64) -> u8 {
        let (file, home) = self.home(i);
        let mut byte = [0];
        file.read_exact_at(&mut byte, home + page * PAGE)
            .expect("ok");
        byte[0]
    }

    async fn write(&self, page: u64, at: u64, byte: u8) {
        append(self.serving.region(), page, at, byte);
        self.serving.flush().await.expect("durable");
    }

    fn seen(&self, page: u64) -> u8 {
        let base = self.serving.region().base();
        // SAFETY: inside the home; one thread.
        unsafe { base.add((page * PAGE) as usize).read_volatile() }
    }

    async fn scrub(&self) -> Scrubbed {
        self.serving.scrub().await.expect("it is the primary")
    }
}

fn append(region: &Region, page: u64, at: u64, byte: u8) {
    let mut writer = region.writer().expect("open");
    let mut record = Record::new();
    let offset = page * PAGE + at;
    // SAFETY: inside the home; one thread.
    unsafe { region.base().add(offset as usize).write_bytes(byte, 8) };
    record.change(offset, &[byte; 8]);
    writer
        .append(&mut record, Durability::Eventual)
        .expect("room");
}

fn with<F: Future<Output = ()>>(machines: usize, test: impl FnOnce(Cluster) -> F) {
    run(1, Settings::default(), |network| async move {
        test(Cluster::new(&network, machines).await).await;
    });
}

fn places(report: &Scrubbed) -> Vec<(&str, u64)> {
    let repaired = report.repaired.iter();
    repaired
        .map(|r| (r.member.as_str(), r.offset / PAGE))
        .collect()
}

#[test]
#[cfg_attr(miri, ignore = "files")]
fn whoever_is_damaged_gets_what_the_others_have() {
    with(3, |cluster| async move {
        for page in 0..8 {
            cluster.write(page, 0, 1 + page as u8).await;
        }
        let report = cluster.scrub().await;
        assert!(
            report.is_sound() && report.repaired.is_empty(),
            "{report:?}"
        );
        assert_eq!(report.members.len(), 3);
        assert!(report.compared >= 2 << 20);

        cluster.damage(1, 3, 0xee);
        cluster.damage(2, 5, 0xee);
        cluster.damage(2, 300, 0xee);
        cluster.damage(0, 6, 0xee);
        let report = cluster.scrub().await;
        assert!(report.is_sound(), "{report:?}");
        let expected = [("b", 3), ("c", 5), ("a", 6), ("c", 300)];
        assert_eq!(places(&report), expected);
        for i in 0..3 {
            let bytes = [3, 5, 6, 300].map(|page| cluster.byte(i, page));
            assert_eq!(bytes, [4, 6, 7, 0]);
        }
        assert_eq!(cluster.serving.scrubs().repaired, 4);
        assert_eq!(
            cluster.nodes[0].scrubs(REGION),
            Some(cluster.serving.scrubs())
        );
        assert_eq!(cluster.nodes[1].scrubs(REGION), None);
    });
}

#[test]
#[cfg_attr(miri, ignore = "files")]
fn the_program_of_a_damaged_primary_sees_what_is_right_again() {
    with(3, |cluster| async move {
        cluster.write(6, 0, 7).await;
        cluster.write(6, 8, 8).await;
        cluster.scrub().await;
        assert!(cluster.serving.region().trim().expect("nobody is inside"));
        cluster.damage(0, 6, 0xee);
        assert_eq!(cluster.seen(6), 0xee);
        // The page becomes the program's own, damage and all.
        cluster.write(6, 16, 9).await;
        let report = cluster.scrub().await;
        assert!(report.is_sound(), "{report:?}");
        assert_eq!(places(&report), [("a", 6)]);
        assert_eq!(cluster.seen(6), 7);
        let base = cluster.serving.region().base();
        // SAFETY: inside the home; one thread.
        let third = unsafe { base.add(6 * PAGE as usize + 16).read_volatile() };
        assert_eq!(third, 9);
    });
}

#[test]
#[cfg_attr(miri, ignore = "files")]
fn where_nobody_has_a_majority_nothing_is_changed_before_somebody_is_named() {
    with(2, |cluster| async move {
        cluster.write(2, 0, 1).await;
        cluster.write(3, 0, 1).await;
        cluster.scrub().await;
        cluster.damage(1, 2, 0xee);
        let report = cluster.scrub().await;
        assert!(!report.is_sound() && report.repaired.is_empty());
        let [undecided] = &report.undecided[..] else {
            panic!("{report:?}");
        };
        assert_eq!(undecided.offset, 2 * PAGE);
        let copies: Vec<_> = undecided.copies.iter().map(|(name, _)| &name[..]).collect();
        assert_eq!(copies, ["a", "b"]);
        assert_ne!(undecided.copies[0].1, undecided.copies[1].1);
        assert_eq!((cluster.byte(0, 2), cluster.byte(1, 2)), (1, 0xee));
        assert_eq!(cluster.serving.scrubs().undecided, 1);

        let range = 2 * PAGE..3 * PAGE;
        let nobody = cluster.serving.repair_from("z", range.clone()).await;
        assert!(nobody.expect("it is the primary").skipped > 0);
        // What is committed meanwhile stays.
        cluster.write(2, 8, 2).await;
        let report = cluster.serving.repair_from("a", range).await;
        let report = report.expect("it is the primary");
        assert_eq!(places(&report), [("b", 2)]);
        assert!(cluster.scrub().await.is_sound());
        assert_eq!((cluster.byte(0, 2), cluster.byte(1, 2)), (1, 1));
    });
}

#[test]
#[cfg_attr(miri, ignore = "files")]
fn who_waits_for_a_scrub_may_go_away() {
    for micros in (0..40).map(|i| i * 500) {
        with(3, |cluster| async move {
            cluster.write(2, 0, 1).await;
            cluster.scrub().await;
            cluster.damage(0, 2, 0xee);
            let region = cluster.serving.region();
            // Somebody has to lead what was appended before the program can see the repair.
            append(region, 3, 0, 7);
            let limit = Duration::from_micros(micros);
            let _ = tokio::time::timeout(limit, cluster.serving.scrub()).await;
            sleep(Duration::from_secs(2)).await;
            region.check_usable().expect("nothing happened to it");
            assert_eq!(cluster.byte(0, 2), 1, "it went on");
        });
    }
}

#[test]
#[cfg_attr(miri, ignore = "files")]
fn copies_are_compared_while_they_change() {
    with(3, |cluster| async move {
        cluster.damage(1, 40, 0xee);
        let mut scrub = std::pin::pin!(cluster.serving.scrub());
        let mut commits = 0u64;
        let report = loop {
            tokio::select! {
                biased;
                report = &mut scrub => break report.expect("it is the primary"),
                _ = sleep(Duration::from_micros(100)) => {}
            }
            let region = cluster.serving.region();
            if region.free() > 8 << 10 {
                append(region, commits % 64, 8, commits as u8);
                commits += 1;
            } else {
                region.checkpoint().expect("sound");
            }
            cluster.serving.flush().await.expect("durable");
        };
        assert!(commits > 0, "nothing was committed meanwhile");
        assert!(report.is_sound(), "{report:?}");
        assert_eq!(places(&report), [("b", 40)]);
    });
}

#[test]
#[cfg_attr(miri, ignore = "files")]
fn a_copy_that_does_not_open_is_set_aside_and_made_anew() {
    with(3, |mut cluster| async move {
        for page in 0..8 {
            cluster.write(page, 0, 1 + page as u8).await;
        }
        cluster.scrub().await;
        // It dies, and both of its headers decay.
        drop((cluster.nodes.pop(), cluster.turns.pop()));
        cluster.network.kill("c");
        sleep(Duration::from_secs(1)).await;
        let (file, _) = cluster.home(2);
        for copy in [0, 4096] {
            file.write_all_at(&[0xee; 8], copy + 16).expect("ok");
        }
        let bytes = std::fs::read(cluster.file(2)).expect("a file");
        let (names, data) = (&cluster.names, cluster.folder.path().join("c"));
        let fabric = cluster.network.restart("c");
        let again = start(fabric, &cluster.coordinator, names, 2, data).await;
        cluster.write(3, 8, 9).await;
        cluster.all_follow().await;
        let report = cluster.scrub().await;
        assert!(
            report.is_sound() && report.repaired.is_empty(),
            "{report:?}"
        );
        assert_eq!(report.members.len(), 3);
        let aside = cluster.folder.path().join("c/bank.region.damaged-1");
        assert_eq!(std::fs::read(aside).expect("it is kept"), bytes);
        drop(again);
    });
}
