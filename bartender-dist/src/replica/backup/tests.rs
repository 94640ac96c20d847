//! What comes too late, over a connection that its primary has given up.

use super::*;
use crate::store::Folder;
use bartender_net::sim::{Settings, run};
use bartender_pm::{Options, Replication, Sealed};
use bytes::Bytes;

#[derive(Debug)]
struct Nobody;

impl Replication for Nobody {
    fn lead(&self, batch: Sealed<'_>) -> bartender_pm::Result<()> {
        batch.write_local()?;
        batch.finish(Ok(()))
    }
}

#[test]
#[cfg_attr(miri, ignore = "files")]
fn what_an_earlier_connection_still_says_changes_no_copy() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = Options::new();
    options.max_size(4 << 20).log_size(64 << 10);
    let mut primary = options.clone();
    primary.background(false).replicated(1, Arc::new(Nobody));
    let region = primary.open(folder.path().join("primary")).unwrap();
    let header = Bytes::from(region.picture().unwrap().header);

    run(1, Settings::default(), |network| async move {
        let fabric = network.node("backup");
        let store = Arc::new(Folder::new(folder.path(), options));
        let slot = Slot::new(
            "bank",
            store,
            Box::new(|_| true),
            Tasks::default(),
            Arc::default(),
        );
        let find = |_: &str| Some(slot.clone());
        let ask = |session: &mut Option<Session>, ask| answer(session, ask, &*fabric, &find);
        let attach = |epoch| Ask::Attach {
            epoch,
            region: "bank".into(),
        };
        let install = || Ask::Install {
            header: header.clone(),
        };
        let finish = || Ask::Finish {
            header: header.clone(),
        };
        let home = |byte: u8| Ask::Home {
            offset: 0,
            bytes: vec![byte; 4096].into(),
        };
        let (mut early, mut late) = (None, None);
        assert_eq!(ask(&mut early, attach(1)), Answer::Nothing);
        assert_eq!(ask(&mut early, install()), Answer::Done);
        assert_eq!(ask(&mut late, attach(1)), Answer::Nothing);
        assert_eq!(ask(&mut late, install()), Answer::Done);
        assert_eq!(ask(&mut late, home(2)), Answer::Done);
        // The page as an older picture had it.
        assert!(matches!(ask(&mut early, home(1)), Answer::Failed { .. }));
        assert!(matches!(
            ask(&mut late, finish()),
            Answer::Attached { ring: Some(_), .. }
        ));
        // Now it may be in sync.
        assert!(matches!(ask(&mut early, install()), Answer::Failed { .. }));
        let mut page = [0; 4096];
        slot.home().expect("it follows").read(0, &mut page);
        assert_eq!(page, [2; 4096]);

        let mut superseded = None;
        assert!(matches!(ask(&mut late, attach(5)), Answer::Attached { .. }));
        let refused = ask(&mut superseded, attach(4));
        assert_eq!(refused, Answer::Fenced { current: 5 });
    });
    region.fence(9);
}

/// A region with a log of 64 KiB, with a record of 5000 bytes; the stream, and the header of its copy before that.
fn one_record(folder: &std::path::Path, options: &Options) -> (Bytes, Bytes) {
    let mut primary = options.clone();
    primary.background(false).replicated(1, Arc::new(Nobody));
    let region = primary.open(folder.join("primary")).unwrap();
    region.extend(64 << 10).unwrap();
    region.sync().unwrap();
    let picture = region.picture().unwrap();
    let mut record = bartender_pm::Record::new();
    record.change(8192, &[7; 5000]);
    let mut writer = region.writer().unwrap();
    writer.append(&mut record, Default::default()).unwrap();
    drop(writer);
    region.sync().unwrap();
    let end = region.committed();
    let stream = region
        .read_stream(picture.head, end - picture.head)
        .unwrap();
    region.fence(9);
    (stream.into(), picture.header.into())
}

#[test]
#[cfg_attr(miri, ignore = "files")]
fn a_little_log_is_taken_home_where_room_is_wanted_and_nothing_is_committed_that_is_not_here() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = Options::new();
    options.max_size(4 << 20).log_size(64 << 10);
    let (stream, header) = one_record(folder.path(), &options);
    run(1, Settings::default(), |network| async move {
        let fabric = network.node("backup");
        let store = Arc::new(Folder::new(folder.path(), options));
        let counts: Counts = Box::new(|_| true);
        let slot = Slot::new("bank", store, counts, Tasks::default(), Arc::default());
        let find = |_: &str| Some(slot.clone());
        let mut session = None;
        let mut ask = |ask| answer(&mut session, ask, &*fabric, &find);
        let region = "bank".into();
        assert_eq!(ask(Ask::Attach { epoch: 1, region }), Answer::Nothing);
        let begun = ask(Ask::Install {
            header: header.clone(),
        });
        assert_eq!(begun, Answer::Done);
        let Answer::Attached { position, .. } = ask(Ask::Finish { header }) else {
            panic!("a whole copy");
        };
        let at = position.committed;
        let end = slot.receive(1, at, &stream).unwrap();
        let mut commit = |upto, room| ask(Ask::Commit { upto, room });
        assert!(matches!(commit(end + 64, true), Answer::Failed { .. }));
        assert_eq!(
            slot.position().unwrap().committed,
            at,
            "nothing is known of it"
        );
        let head = || slot.position().unwrap().head;
        for (room, expected) in [(false, at), (true, end)] {
            assert!(matches!(commit(end, room), Answer::Attached { .. }));
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            assert_eq!(head(), expected);
        }
    });
}

#[test]
#[cfg_attr(miri, ignore = "files")]
fn a_damaged_copy_is_set_aside_when_it_does_not_count_and_only_then() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = Options::new();
    options.max_size(4 << 20).log_size(64 << 10);
    let store = Arc::new(Folder::new(folder.path(), options));
    let create = || {
        store.create("bank").unwrap();
        // Only then it has both headers.
        drop(store.standby("bank").unwrap());
    };
    create();
    let file = store.file("bank");
    let aside = |n: u32| folder.path().join(format!("bank.region.damaged-{n}"));
    let counts = Arc::new(AtomicBool::new(true));
    let said = counts.clone();
    let slot = Slot::new(
        "bank",
        store.clone(),
        Box::new(move |_| said.load(Ordering::Relaxed)),
        Tasks::default(),
        Arc::default(),
    );
    let damage = |at: u64| {
        use std::os::unix::fs::FileExt;
        let file = std::fs::File::options().write(true).open(&file).unwrap();
        for copy in [0, 4096] {
            file.write_all_at(&[0xee; 8], copy + at).unwrap();
        }
    };
    let refused = |slot: &Slot| slot.attach(3).expect_err("it does not open");

    // Of a checksum.
    damage(16);
    assert!(matches!(refused(&slot), Answer::Damaged { .. }));
    assert!(file.exists() && !aside(1).exists());
    counts.store(false, Ordering::Relaxed);
    // Somebody has it open.
    let held = std::fs::File::open(&file).unwrap();
    held.lock().unwrap();
    assert!(matches!(refused(&slot), Answer::Failed { .. }));
    drop(held);
    let bytes = std::fs::read(&file).unwrap();
    slot.attach(3).expect("there is nothing any more");
    assert!(slot.position().is_none() && !file.exists());
    assert_eq!(std::fs::read(aside(1)).unwrap(), bytes);

    // Once more; and the older one stays.
    create();
    damage(16);
    slot.attach(3).expect("there is nothing any more");
    assert!(!file.exists() && aside(2).exists());
    assert_eq!(std::fs::read(aside(1)).unwrap(), bytes);

    // What is no region is not touched.
    create();
    damage(0);
    assert!(matches!(refused(&slot), Answer::Failed { .. }));
    assert!(file.exists() && !aside(3).exists());
}
