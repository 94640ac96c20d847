//! The same bytes twice: a file opened again, under other names, copies beside it, other types for it.

use crate::{folder, open_at, options, region};
use bartender::{Error, Heap, Mut, PBox, PHashMap, PMutex, PRwLock, PString, PVec, Persist};
use std::path::Path;

type Names = PMutex<PVec<PString>>;

fn fill(path: &Path) -> Heap<Names> {
    let heap = open_at::<Names>(path);
    heap.update(|mut names| names.extend(["Ada", "Grace"].map(PString::from)))
        .unwrap();
    heap
}

#[test]
fn a_file_is_opened_once_under_whatever_name() {
    let folder = folder();
    let path = region(&folder);
    let heap = fill(&path);
    let (link, hard) = (folder.path().join("link"), folder.path().join("hard"));
    std::os::unix::fs::symlink(&path, &link).unwrap();
    std::fs::hard_link(&path, &hard).unwrap();
    let dotted = folder.path().join(".").join("r");
    for again in [&path, &link, &hard, &dotted] {
        let refused = options::<Names>().open(again);
        assert!(refused.is_err(), "{}", again.display());
        let elsewhere = std::thread::scope(|s| {
            s.spawn(|| options::<Names>().open(again).is_err())
                .join()
                .unwrap()
        });
        assert!(elsewhere, "{}", again.display());
    }
    heap.update(|mut names| names.push("Edsger".into()))
        .unwrap();
    heap.close().unwrap();
    assert_eq!(open_at::<Names>(&hard).read().len(), 3);
}

#[test]
fn a_copy_beside_its_original_is_another_region() {
    let folder = folder();
    let path = region(&folder);
    let original = fill(&path);
    original.checkpoint().unwrap();
    original.close().unwrap();
    let twin = folder.path().join("copy");
    std::fs::copy(&path, &twin).unwrap();
    let (original, twin) = (open_at::<Names>(&path), open_at::<Names>(&twin));
    original
        .transaction(|tx| {
            let mut here = tx.lock(original.root())?;
            // The lock at the same place of the other one is another lock.
            let refused = tx.lock(twin.root()).map(drop);
            assert!(matches!(refused, Err(Error::ForeignLock)), "{refused:?}");
            twin.transaction(|tx| {
                let mut there = tx.lock(twin.root())?;
                let refused = Mut::swap(&mut here, &mut there);
                assert!(matches!(refused, Err(Error::ForeignValue)), "{refused:?}");
                // By way of ordinary memory.
                let taken = Mut::take(&mut here)?;
                let taken = Mut::replace(&mut there, taken)?;
                here.set(taken)
            })
        })
        .unwrap();
    for heap in [original, twin] {
        assert_eq!(heap.read()[..], ["Ada", "Grace"].map(PString::from));
        heap.check().unwrap();
        heap.close().unwrap();
    }
}

#[test]
fn a_ticket_of_one_copy_is_nothing_in_the_other_one() {
    let (one, two) = (folder(), folder());
    let (one, two) = (fill(&region(&one)), fill(&region(&two)));
    let outcome = one.update(|mut names| {
        let moved = names.pop_moved()?.expect("there are two");
        let refused = two.update(|mut names| names.push_moved(moved));
        assert!(matches!(refused, Err(Error::ForeignValue)), "{refused:?}");
        Ok(())
    });
    assert!(matches!(outcome, Err(Error::Doomed { .. })), "{outcome:?}");
    assert_eq!(one.read().len(), 2);
    assert_eq!(two.read().len(), 2);
}

mod v1 {
    use super::*;
    #[derive(Persist, Default)]
    #[repr(C)]
    pub(super) struct Item {
        pub(super) at: u64,
        pub(super) next: Option<PBox<u64>>,
    }
}

mod v2 {
    use super::*;
    /// The same bytes with the pointer and the number exchanged.
    #[derive(Persist, Default)]
    #[repr(C)]
    pub(super) struct Item {
        pub(super) next: Option<PBox<u64>>,
        pub(super) at: u64,
    }
}

mod v3 {
    use super::*;
    /// A pointer to something else.
    #[derive(Persist, Default)]
    #[repr(C)]
    pub(super) struct Item {
        pub(super) at: u64,
        pub(super) next: Option<PBox<PString>>,
    }
}

#[test]
fn another_type_is_refused_however_much_alike_it_looks() {
    fn refused<R: Persist + Default>(path: &Path) {
        let error = options::<R>().open(path).map(drop);
        assert!(
            matches!(error, Err(Error::TypeMismatch { .. })),
            "{}: {error:?}",
            std::any::type_name::<R>()
        );
    }
    let folder = folder();
    let path = region(&folder);
    let heap = open_at::<PMutex<v1::Item>>(&path);
    heap.update(|mut item| {
        item.set(v1::Item {
            at: 7,
            next: Some(PBox::new(8)),
        })
    })
    .unwrap();
    heap.close().unwrap();
    refused::<PMutex<v2::Item>>(&path);
    refused::<PMutex<v3::Item>>(&path);
    refused::<PRwLock<v1::Item>>(&path);
    refused::<PMutex<(u64, Option<PBox<u64>>)>>(&path);
    refused::<PMutex<[u64; 2]>>(&path);
    refused::<(u64, v1::Item)>(&path);
    refused::<PMutex<PVec<v1::Item>>>(&path);
    refused::<PMutex<PHashMap<u64, v1::Item>>>(&path);
    let heap = open_at::<PMutex<v1::Item>>(&path);
    let item = heap.read();
    assert_eq!((item.at, item.next.as_deref()), (7, Some(&8)));
    drop(item);
    heap.check().unwrap();

    let numbers = folder.path().join("numbers");
    drop(open_at::<PMutex<u32>>(&numbers));
    refused::<PMutex<char>>(&numbers);
    refused::<PMutex<i32>>(&numbers);
    refused::<PMutex<f32>>(&numbers);
    refused::<PMutex<Option<std::num::NonZeroU32>>>(&numbers);
    refused::<PMutex<[bool; 4]>>(&numbers);
    let bytes = folder.path().join("bytes");
    drop(open_at::<PMutex<PVec<u8>>>(&bytes));
    refused::<PMutex<PString>>(&bytes);
}

#[test]
fn enums_with_other_tags_or_variants_are_refused() {
    mod a {
        use super::*;
        #[derive(Persist, Default)]
        #[repr(u8)]
        pub(super) enum Kind {
            #[default]
            A = 1,
            B = 2,
        }
    }
    mod b {
        use super::*;
        #[derive(Persist, Default)]
        #[repr(u8)]
        #[allow(dead_code)]
        pub(super) enum Kind {
            #[default]
            A = 1,
            B = 3,
        }
    }
    let folder = folder();
    let path = region(&folder);
    let heap = open_at::<PMutex<a::Kind>>(&path);
    heap.update(|mut kind| kind.set(a::Kind::B)).unwrap();
    heap.close().unwrap();
    let refused = options::<PMutex<b::Kind>>().open(&path).map(drop);
    assert!(matches!(refused, Err(Error::TypeMismatch { .. })));
}
