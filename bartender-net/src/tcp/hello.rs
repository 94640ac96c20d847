//! The first thing that both ends say: version, features, limits. 32 bytes on the stack; nothing is allocated for a
//! peer before its hello was understood.

use crate::error::{Error, Result};
use crate::layout::{self, Hello};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use zerocopy::{FromBytes, IntoBytes};

/// What holds for a connection: what the peer takes of us. What we take of it is in `layout`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Bytes of a read or a write.
    pub(super) transfer: u32,
    /// Bytes of a message.
    pub(super) message: u32,
    /// Operations that are not answered.
    pub(super) in_flight: usize,
    /// Bytes of messages that were not received.
    pub(super) window: u64,
    /// Features that both know.
    pub(super) features: u32,
}

/// Says hello, and hears it.
///
/// # Errors
///
/// [`Error::Protocol`] for another version, [`Error::BadMessage`] for something else, [`Error::Connect`] for an end of
/// the stream.
pub(super) async fn exchange<S>(stream: &mut S, peer: &str) -> Result<Limits>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let broken = |source: io::Error| Error::Connect {
        peer: peer.into(),
        source,
    };
    let ours = Hello::ours();
    stream.write_all(ours.as_bytes()).await.map_err(broken)?;
    stream.flush().await.map_err(broken)?;
    let mut bytes = [0; size_of::<Hello>()];
    stream.read_exact(&mut bytes).await.map_err(broken)?;
    understand(&bytes, peer)
}

/// What a hello says.
fn understand(bytes: &[u8; size_of::<Hello>()], peer: &str) -> Result<Limits> {
    let damaged = |what: &str| Error::BadMessage {
        peer: peer.into(),
        what: what.into(),
    };
    let theirs = Hello::read_from_bytes(bytes).map_err(|_| damaged("a hello of another size"))?;
    if theirs.magic != layout::MAGIC {
        return Err(damaged(
            "no hello; is another service listening there, or is TLS on at one end only?",
        ));
    }
    if theirs.protocol.get() != layout::PROTOCOL {
        return Err(Error::Protocol {
            peer: peer.into(),
            found: theirs.protocol.get(),
            known: layout::PROTOCOL,
        });
    }
    let limits = Limits {
        transfer: theirs.transfer.get().min(layout::MAX_TRANSFER),
        message: theirs.message.get().min(layout::MAX_MESSAGE),
        in_flight: theirs.in_flight.get().min(layout::MAX_IN_FLIGHT) as usize,
        window: u64::from(theirs.window.get().min(layout::WINDOW)),
        features: theirs.features.get() & layout::FEATURES,
    };
    if limits.in_flight == 0 || limits.window < u64::from(limits.message + layout::MESSAGE_COST) {
        return Err(damaged(
            "a hello with limits under which nothing can be sent",
        ));
    }
    Ok(limits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hear(hello: Hello) -> Result<Limits> {
        understand(hello.as_bytes().try_into().unwrap(), "b")
    }

    #[test]
    fn the_smaller_limit_and_the_common_features_hold() {
        let ours = Hello::ours();
        let limits = hear(Hello {
            transfer: u32::MAX.into(),
            message: 100.into(),
            features: u32::MAX.into(),
            ..ours
        });
        let limits = limits.unwrap();
        assert_eq!(
            (limits.transfer, limits.message),
            (layout::MAX_TRANSFER, 100)
        );
        assert_eq!(limits.features, layout::FEATURES);
    }

    #[test]
    fn another_version_is_named() {
        let newer = Hello {
            protocol: 9.into(),
            ..Hello::ours()
        };
        assert!(matches!(hear(newer), Err(Error::Protocol { found: 9, .. })));
    }

    #[test]
    fn what_is_no_hello_is_damage() {
        let foreign = Hello {
            magic: *b"HTTP/1.1",
            ..Hello::ours()
        };
        assert!(matches!(hear(foreign), Err(Error::BadMessage { .. })));
        let useless = Hello {
            window: 0.into(),
            ..Hello::ours()
        };
        assert!(matches!(hear(useless), Err(Error::BadMessage { .. })));
    }
}
