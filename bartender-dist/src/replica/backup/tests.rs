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
            ask(&mut late, Ask::Finish),
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
