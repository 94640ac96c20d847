//! A whole connection over TCP whose peer says anything: it must not panic, not touch memory outside of what is
//! registered, and not go on after nonsense.

#![no_main]

use bartender_net::layout::{Frame, Hello};
use bartender_net::{Access, Fabric, Memory, TcpFabric, TcpOptions};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle};
use zerocopy::IntoBytes;

/// Registered are the words in the middle third.
struct Fenced(Box<[AtomicU64]>);

const THIRD: usize = 512;
const GUARD: u64 = 0x5a5a_5a5a_5a5a_5a5a;

// SAFETY: the words live as long as the value and are atomics; the range is inside.
unsafe impl Memory for Fenced {
    fn base(&self) -> NonNull<u8> {
        NonNull::from(&self.0[THIRD / 8]).cast()
    }

    fn len(&self) -> u64 {
        THIRD as u64
    }

    fn persist(&self, ranges: &[(u64, u64)]) -> Result<(), String> {
        let inside = |&(offset, len): &(u64, u64)| offset + len <= THIRD as u64;
        assert!(ranges.iter().all(inside), "{ranges:?}");
        Ok(())
    }
}

/// What a peer says: frames about the memory that there is, and anything.
#[derive(Debug, Arbitrary)]
enum Said {
    Read { offset: u16, len: u16 },
    Write { offset: u16, len: u8, now: bool },
    Swap { offset: u16 },
    Add { offset: u16 },
    Done { count: u8 },
    Anything(Vec<u8>),
}

fn put(said: &Said, key: u64, out: &mut Vec<u8>) {
    match *said {
        Said::Read { offset, len } => {
            let (offset, len) = (offset.into(), len.into());
            Frame::Read { key, offset, len }.put(out);
        }
        Said::Write { offset, len, now } => {
            let write = Frame::Write {
                key,
                offset: offset.into(),
                len: len.into(),
                immediate: now.then_some(7),
            };
            write.put(out);
            out.extend(std::iter::repeat_n(7, len.into()));
        }
        Said::Swap { offset } => {
            let swap = Frame::CompareSwap {
                key,
                offset: offset.into(),
                expected: 0,
                new: 1,
            };
            swap.put(out);
        }
        Said::Add { offset } => {
            let add = Frame::FetchAdd {
                key,
                offset: offset.into(),
                addend: 1,
            };
            add.put(out);
        }
        Said::Done { count } => Frame::Done {
            count: count.into(),
        }
        .put(out),
        Said::Anything(ref bytes) => out.extend(bytes),
    }
}

/// The hello's fields, and what follows.
#[derive(Debug, Arbitrary)]
struct Peer {
    /// Instead of ours.
    hello: Option<[u8; size_of::<Hello>()]>,
    said: Vec<Said>,
}

fuzz_target!(|peer: Peer| {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let fabric = TcpFabric::insecure(Handle::current(), TcpOptions::default());
        let words = (0..3 * THIRD / 8).map(|_| AtomicU64::new(GUARD)).collect();
        let memory = Arc::new(Fenced(words));
        let registered = fabric
            .register(memory.clone(), Access::ALL)
            .expect("it is memory");
        let listener = fabric.listen("127.0.0.1:0").await.expect("loopback");
        let mut stream = TcpStream::connect(listener.address())
            .await
            .expect("it listens");
        let mut bytes = match peer.hello {
            Some(hello) => hello.to_vec(),
            None => Hello::ours().as_bytes().to_vec(),
        };
        for said in &peer.said {
            put(said, registered.remote().key, &mut bytes);
        }
        let tell = async {
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
            let mut answers = Vec::new();
            let _ = stream.read_to_end(&mut answers).await;
        };
        let hear = async {
            let patience = std::time::Duration::from_millis(20);
            // Nobody comes in with another hello.
            if let Ok(Ok(connection)) = tokio::time::timeout(patience, listener.accept()).await {
                while connection.recv().await.is_ok() {}
            }
        };
        tokio::join!(tell, hear);
        let outside = memory.0.iter().enumerate();
        for (i, word) in outside.filter(|(i, _)| i / (THIRD / 8) != 1) {
            assert_eq!(word.load(Ordering::Relaxed), GUARD, "word {i}");
        }
    });
});
