//! Until when a certificate is valid. Whoever verified it looked at that once; a connection may live for longer.

use rustls::pki_types::CertificateDer;
use std::time::{Duration, SystemTime};

const SEQUENCE: u8 = 0x30;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// The version in a certificate, which may be left out.
const VERSION: u8 = 0xA0;

/// The first value of `der`: its tag, its bytes, and what follows.
fn value(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, first], rest) = der.split_first_chunk()?;
    let (len, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (len, rest) = rest.split_at_checked(usize::from(first & 0x7F))?;
        if len.len() > 4 {
            return None;
        }
        let len = len
            .iter()
            .fold(0, |len, byte| len << 8 | usize::from(*byte));
        (len, rest)
    };
    let (bytes, rest) = rest.split_at_checked(len)?;
    Some((tag, bytes, rest))
}

/// The bytes of the first value, if it is a sequence, and what follows.
fn sequence(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (tag, bytes, rest) = value(der)?;
    (tag == SEQUENCE).then_some((bytes, rest))
}

/// When the certificate ends to be valid. `None` if it is none (RFC 5280, 4.1).
pub(super) fn until(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    let (certificate, _) = sequence(certificate)?;
    let (mut fields, _) = sequence(certificate)?;
    if let (VERSION, _, rest) = value(fields)? {
        fields = rest;
    }
    let (_, _, fields) = value(fields)?; // its number
    let (_, fields) = sequence(fields)?; // algorithm of the signature
    let (_, fields) = sequence(fields)?; // who issued it
    let (validity, _) = sequence(fields)?;
    let (_, _, until) = value(validity)?; // from when on
    let (tag, text, _) = value(until)?;
    time(tag, text)
}

/// A time as certificates write it: `YYMMDDhhmmssZ`, or with the whole year.
fn time(tag: u8, text: &[u8]) -> Option<SystemTime> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let digits = if tag == UTC_TIME { 12 } else { 14 };
    if !matches!(tag, UTC_TIME | GENERALIZED_TIME)
        || text.len() != digits
        || !text.bytes().all(|byte| byte.is_ascii_digit())
    {
        return None;
    }
    let (year, rest) = text.split_at(digits - 10);
    let mut year: u64 = year.parse().ok()?;
    if tag == UTC_TIME {
        year += if year < 50 { 2000 } else { 1900 };
    }
    let two = |at: usize| rest[at..at + 2].parse::<u64>().ok();
    let (month, day) = (two(0)?, two(2)?);
    let (hour, minute, second) = (two(4)?, two(6)?, two(8)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Days since March of the year 0, so that the day that leap years have more is the last.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year.checked_sub(1)?, month + 9)
    };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1;
    let days = days.checked_sub(719_468)?;
    let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// Ready when it is `until`, by how the clock stands now.
pub(crate) async fn expired(until: Option<SystemTime>) {
    let Some(until) = until else {
        return std::future::pending().await;
    };
    let left = until.duration_since(SystemTime::now());
    tokio::time::sleep(left.unwrap_or_default()).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_are_read() {
        let seconds = |tag, text: &str| {
            let time = time(tag, text.as_bytes())?;
            time.duration_since(SystemTime::UNIX_EPOCH)
                .ok()
                .map(|d| d.as_secs())
        };
        assert_eq!(seconds(UTC_TIME, "700101000000Z"), Some(0));
        assert_eq!(seconds(UTC_TIME, "000229235959Z"), Some(951_868_799));
        assert_eq!(seconds(UTC_TIME, "000301000000Z"), Some(951_868_800));
        assert_eq!(seconds(UTC_TIME, "380119031408Z"), Some(1 << 31));
        assert_eq!(
            seconds(GENERALIZED_TIME, "20500101000000Z"),
            Some(2_524_608_000)
        );
        assert_eq!(
            seconds(GENERALIZED_TIME, "99991231235959Z"),
            Some(253_402_300_799)
        );
        for (tag, text) in [
            (UTC_TIME, "500101000000"),
            (UTC_TIME, "501301000000Z"),
            (UTC_TIME, "5001010000+0Z"),
            (GENERALIZED_TIME, "00000101000000Z"),
            (2, "700101000000Z"),
        ] {
            assert_eq!(seconds(tag, text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn bytes_that_are_no_certificate_are_none(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut nested = vec![SEQUENCE, 0x82, 1, 0, SEQUENCE, 0x81, 200];
            nested.extend(&bytes);
            until(&CertificateDer::from(bytes));
            until(&CertificateDer::from(nested));
        }
    }
}
