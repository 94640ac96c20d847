//! The archive that a kernel unpacks to find its first program: cpio in the
//! "newc" format, uncompressed (Linux, `Documentation/driver-api/early-userspace/
//! buffer-format.rst`). Writes folders and files, nothing else.

const FOLDER: u32 = 0o040_755;
const FILE: u32 = 0o100_755;

/// An archive that is being written.
#[derive(Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    pub(super) fn folder(&mut self, name: &str) {
        self.entry(name, FOLDER, &[]);
    }

    /// An executable file.
    pub(super) fn file(&mut self, name: &str, content: &[u8]) {
        self.entry(name, FILE, content);
    }

    /// The whole archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let links = if mode == FOLDER { 2 } else { 1 };
        let (size, name_size) = (content.len(), name.len() + 1);
        let numbers = [
            self.entries as usize,
            mode as usize,
            0, // user
            0, // group
            links,
            0, // time
            size,
            0, // device
            0,
            0, // device that it is
            0,
            name_size,
            0, // checksum: none
        ];
        self.bytes.extend(b"070701");
        for number in numbers {
            self.bytes.extend(format!("{number:08x}").bytes());
        }
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_110_bytes_and_everything_starts_on_a_word() {
        let mut archive = Archive::default();
        archive.folder("a");
        archive.file("a/b", b"12345");
        let bytes = archive.finish();
        assert_eq!(&bytes[..14], b"07070100000001");
        let second = 110 + 2;
        assert_eq!(&bytes[second..second + 6], b"070701");
        let content = (second + 110 + 4_usize).next_multiple_of(4);
        assert_eq!(&bytes[content..content + 5], b"12345");
        assert_eq!(&bytes[content + 8..content + 14], b"070701");
        assert!(bytes.len().is_multiple_of(4));
    }
}
