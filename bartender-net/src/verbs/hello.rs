//! How two queue pairs find each other: over an ordinary connection, authenticated or not, which stays open for as
//! long as they do. Its end is the end of both.

use crate::error::{Error, Result};
use crate::layout::verbs::{Hello, MAGIC, PROTOCOL};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use zerocopy::{FromBytes, IntoBytes};

/// What one has to know of a queue pair to reach it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Way {
    pub(super) number: u32,
    pub(super) psn: u32,
    pub(super) gid: [u8; 16],
    pub(super) lid: u16,
    pub(super) mtu: u8,
}

fn broken(peer: &str) -> impl Fn(io::Error) -> Error + '_ {
    move |source| Error::Connect {
        peer: peer.into(),
        source,
    }
}

/// Tells ours and hears theirs.
pub(super) async fn exchange<S>(stream: &mut S, ours: &Way, peer: &str) -> Result<Way>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let hello = Hello {
        magic: MAGIC,
        protocol: PROTOCOL.into(),
        number: ours.number.into(),
        psn: ours.psn.into(),
        lid: ours.lid.into(),
        mtu: ours.mtu,
        zero: 0,
        gid: ours.gid,
    };
    let failed = broken(peer);
    stream.write_all(hello.as_bytes()).await.map_err(&failed)?;
    stream.flush().await.map_err(&failed)?;
    let mut bytes = [0; size_of::<Hello>()];
    stream.read_exact(&mut bytes).await.map_err(&failed)?;
    let damaged = |what: &str| Error::BadMessage {
        peer: peer.into(),
        what: what.into(),
    };
    let theirs = Hello::read_from_bytes(&bytes).map_err(|_| damaged("a hello of another size"))?;
    if theirs.magic != MAGIC {
        return Err(damaged("no hello of the verbs backend"));
    }
    if theirs.protocol.get() != PROTOCOL {
        return Err(Error::Protocol {
            peer: peer.into(),
            found: theirs.protocol.get(),
            known: PROTOCOL,
        });
    }
    Ok(Way {
        number: theirs.number.get() & 0xff_ffff,
        psn: theirs.psn.get() & 0xff_ffff,
        gid: theirs.gid,
        lid: theirs.lid.get(),
        mtu: theirs.mtu,
    })
}

/// Says that our end is ready, and waits until theirs is: what is posted before would be lost.
pub(super) async fn ready<S>(stream: &mut S, peer: &str) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let failed = broken(peer);
    stream.write_all(&[1]).await.map_err(&failed)?;
    stream.flush().await.map_err(&failed)?;
    let mut byte = [0];
    stream.read_exact(&mut byte).await.map_err(&failed)?;
    Ok(())
}
