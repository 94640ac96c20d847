//! A node that is asked anything by a member: it answers or refuses, and goes on with everybody else.

#![no_main]

mod honest;

use bartender_dist::{Embedded, Folder, Node, NodeOptions};
use bartender_net::sim::{Settings, run};
use bartender_net::{Connection, Fabric, Received};
use bartender_pm::Options;
use bytes::Bytes;
use honest::{Edits, HONEST, edited};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use std::sync::Arc;
use std::time::Duration;

const REGION: &str = "r";

/// The messages of `replica/layout.rs`, honest in their form, or anything.
#[derive(Debug, Arbitrary)]
enum Said {
    Attach {
        epoch: u64,
    },
    Commit {
        upto: u64,
        room: bool,
    },
    /// An honest header, changed.
    Install {
        edits: Edits,
    },
    Home {
        offset: u64,
        bytes: Vec<u8>,
    },
    /// The same header or another one, changed.
    Finish {
        edits: Edits,
    },
    Query,
    Anything(Vec<u8>),
}

fn message(said: &Said, version: u32) -> Vec<u8> {
    let string = |out: &mut Vec<u8>, bytes: &[u8]| {
        out.extend((bytes.len() as u32).to_le_bytes());
        out.extend(bytes);
    };
    let mut out = Vec::new();
    match said {
        Said::Attach { epoch } => {
            out.push(1);
            out.extend(version.to_le_bytes());
            out.extend(epoch.to_le_bytes());
            string(&mut out, REGION.as_bytes());
        }
        Said::Commit { upto, room } => {
            out.push(2);
            out.extend(upto.to_le_bytes());
            out.extend(u32::from(*room).to_le_bytes());
        }
        Said::Install { edits } => {
            out.push(3);
            string(&mut out, &edited(&HONEST.header, edits));
        }
        Said::Home { offset, bytes } => {
            out.push(4);
            out.extend(offset.to_le_bytes());
            string(&mut out, bytes);
        }
        Said::Finish { edits } => {
            out.push(5);
            string(&mut out, &edited(&HONEST.header, edits));
        }
        Said::Query => {
            out.push(6);
            out.extend(version.to_le_bytes());
            string(&mut out, REGION.as_bytes());
        }
        Said::Anything(bytes) => out.clone_from(bytes),
    }
    out
}

/// The protocol's version, which a node names that is asked in another one.
async fn version(connection: &Connection) -> u32 {
    let question = Bytes::from(message(&Said::Query, 0));
    connection.send(question).await.expect("it takes questions");
    let Ok(Received::Message(answer)) = connection.recv().await else {
        panic!("no answer");
    };
    let answer = String::from_utf8_lossy(&answer);
    let known = answer.rsplit(' ').next().and_then(|word| word.parse().ok());
    known.unwrap_or_else(|| panic!("no version in {answer}"))
}

fuzz_target!(|said: Vec<Said>| {
    let folder = tempfile::tempdir_in("/dev/shm").expect("shared memory");
    let mut options = Options::new();
    options.max_size(4 << 20).log_size(64 << 10);
    let store = Arc::new(Folder::new(folder.path(), options));
    run(1, Settings::default(), |network| async move {
        let fabric = network.node("a");
        let peer = network.node("peer");
        let coordinator = Arc::new(Embedded::volatile());
        let node = Node::start(NodeOptions::new("a", "c"), "a", fabric, coordinator, store).await;
        let node = node.expect("it listens");
        let _hosting = node.host(REGION, None);
        let connection = peer.connect("a").await.expect("it listens");
        let version = version(&connection).await;
        for said in &said {
            if connection
                .send(Bytes::from(message(said, version)))
                .await
                .is_err()
            {
                break;
            }
            let answer = tokio::time::timeout(Duration::from_secs(60), connection.recv()).await;
            match answer.expect("every question is answered") {
                Ok(Received::Message(_)) => {}
                _ => break,
            }
        }
        // Others are answered still.
        let other = peer.connect("a").await.expect("it listens");
        let query = Bytes::from(message(&Said::Query, version));
        other.send(query).await.expect("it takes questions");
        other.recv().await.expect("and answers");
    });
});
