//! The gzip layer, strict: every member to its end with both trailer fields right, and nothing after the last one. A
//! server stops reading at the end of the tar and never looks at the trailer, so "it was accepted" proves nothing here.

use std::io::{self, BufRead};

use flate2::{Crc, Decompress, FlushDecompress, Status};

use super::error::ArchiveError;

const HEADER_CRC: u8 = 2;
const EXTRA: u8 = 4;
const NAME: u8 = 8;
const COMMENT: u8 = 16;
const RESERVED: u8 = 0b1110_0000;
/// A server writes no optional header fields; a hand-made archive may carry a file name. More is not a header.
const MAX_HEADER_TEXT: usize = 64 * 1024;

/// Expands a sequence of gzip members.
pub(super) struct Expand<R> {
    source: R,
    inflate: Decompress,
    crc: Crc,
    state: State,
    expanded: u64,
    limit: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before a member; `first` while nothing was read at all.
    Between {
        first: bool,
    },
    Inside,
    Ended,
}

impl<R: BufRead> Expand<R> {
    /// `limit` bounds the expanded bytes: a gzip bomb stops there.
    pub(super) fn new(source: R, limit: u64) -> Self {
        let state = State::Between { first: true };
        Self { source, inflate: Decompress::new(false), crc: Crc::new(), state, expanded: 0, limit }
    }

    pub(super) fn expanded(&self) -> u64 {
        self.expanded
    }

    pub(super) fn into_source(self) -> R {
        self.source
    }

    /// Fills the front of `out`; 0 only at the proper end of the whole file.
    pub(super) fn read(&mut self, out: &mut [u8]) -> Result<usize, ArchiveError> {
        loop {
            match self.state {
                State::Ended => return Ok(0),
                State::Between { first } => {
                    if self.source.fill_buf().map_err(read_error)?.is_empty() {
                        if first {
                            return Err(ArchiveError::NotGzip);
                        }
                        self.state = State::Ended;
                        return Ok(0);
                    }
                    self.header(first)?;
                    self.inflate.reset(false);
                    self.crc.reset();
                    self.state = State::Inside;
                }
                State::Inside => {
                    let n = self.inflate(out)?;
                    if n > 0 {
                        return Ok(n);
                    }
                }
            }
        }
    }

    /// One step of inflation. 0 when the member ended without another byte.
    fn inflate(&mut self, out: &mut [u8]) -> Result<usize, ArchiveError> {
        loop {
            let input = self.source.fill_buf().map_err(read_error)?;
            let at_end = input.is_empty();
            let (before_in, before_out) = (self.inflate.total_in(), self.inflate.total_out());
            let status = self
                .inflate
                .decompress(input, out, FlushDecompress::None)
                .map_err(|_| ArchiveError::Gzip("the compressed data is not valid"))?;
            let consumed = usize::try_from(self.inflate.total_in() - before_in).unwrap_or(usize::MAX);
            let produced = usize::try_from(self.inflate.total_out() - before_out).unwrap_or(usize::MAX);
            self.source.consume(consumed);
            self.expanded += produced as u64;
            if self.expanded > self.limit {
                return Err(ArchiveError::TooLarge { limit: self.limit });
            }
            self.crc.update(&out[..produced]);
            if status == Status::StreamEnd {
                self.trailer()?;
                self.state = State::Between { first: false };
                return Ok(produced);
            }
            if produced > 0 {
                return Ok(produced);
            }
            if at_end {
                return Err(ArchiveError::Truncated { within: "the compressed data" });
            }
            if consumed == 0 {
                return Err(ArchiveError::Gzip("the compressed data makes no progress"));
            }
        }
    }

    fn header(&mut self, first: bool) -> Result<(), ArchiveError> {
        let not_a_member = || if first { ArchiveError::NotGzip } else { ArchiveError::Trailing("foreign data") };
        let mut crc = Crc::new();
        // Byte by byte, so that four bytes of rubbish at the end are rubbish and not a cut header.
        for expected in [0x1f, 0x8b, 8] {
            match self.maybe_byte()? {
                Some(byte) if byte == expected => crc.update(&[byte]),
                _ => return Err(not_a_member()),
            }
        }
        let mut next = |reader: &mut Self| -> Result<u8, ArchiveError> {
            let byte = reader.byte("the gzip header")?;
            crc.update(&[byte]);
            Ok(byte)
        };
        let flags = next(self)?;
        if flags & RESERVED != 0 {
            return Err(ArchiveError::Gzip("reserved header flags are set"));
        }
        for _ in 0..6 {
            next(self)?; // time, extra flags, operating system: say nothing about the content
        }
        if flags & EXTRA != 0 {
            let length = usize::from(u16::from_le_bytes([next(self)?, next(self)?]));
            for _ in 0..length {
                next(self)?;
            }
        }
        for flag in [NAME, COMMENT] {
            if flags & flag != 0 {
                let mut length = 0;
                while next(self)? != 0 {
                    length += 1;
                    if length > MAX_HEADER_TEXT {
                        return Err(ArchiveError::Gzip("a header text never ends"));
                    }
                }
            }
        }
        if flags & HEADER_CRC != 0 {
            let expected = u16::try_from(crc.sum() & 0xffff).unwrap_or_default();
            let found = u16::from_le_bytes([self.byte("the gzip header")?, self.byte("the gzip header")?]);
            if found != expected {
                return Err(ArchiveError::Gzip("the header's checksum is wrong"));
            }
        }
        Ok(())
    }

    fn trailer(&mut self) -> Result<(), ArchiveError> {
        let crc = self.number("the gzip trailer")?;
        if crc != self.crc.sum() {
            return Err(ArchiveError::Gzip("the checksum in the trailer is wrong"));
        }
        let length = self.number("the gzip trailer")?;
        if length != self.crc.amount() {
            return Err(ArchiveError::Gzip("the length in the trailer is wrong"));
        }
        Ok(())
    }

    fn number(&mut self, within: &'static str) -> Result<u32, ArchiveError> {
        let mut bytes = [0; 4];
        for byte in &mut bytes {
            *byte = self.byte(within)?;
        }
        Ok(u32::from_le_bytes(bytes))
    }

    fn maybe_byte(&mut self) -> Result<Option<u8>, ArchiveError> {
        let byte = self.source.fill_buf().map_err(read_error)?.first().copied();
        if byte.is_some() {
            self.source.consume(1);
        }
        Ok(byte)
    }

    fn byte(&mut self, within: &'static str) -> Result<u8, ArchiveError> {
        self.maybe_byte()?.ok_or(ArchiveError::Truncated { within })
    }
}

fn read_error(error: io::Error) -> ArchiveError {
    ArchiveError::Read(error)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, GzBuilder, write::GzEncoder};

    use super::*;

    fn zip(data: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::none());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn expand(bytes: &[u8], limit: u64) -> Result<Vec<u8>, ArchiveError> {
        let mut reader = Expand::new(bytes, limit);
        let (mut all, mut buffer) = (Vec::new(), [0; 7]);
        loop {
            match reader.read(&mut buffer)? {
                0 => return Ok(all),
                n => all.extend_from_slice(&buffer[..n]),
            }
        }
    }

    #[test]
    fn several_members_are_one_stream() {
        let bytes = [zip(b"one "), zip(b""), zip(b"two")].concat();
        assert_eq!(expand(&bytes, 100).unwrap(), b"one two");
    }

    #[test]
    fn a_file_name_in_the_header_is_allowed() {
        let mut encoder = GzBuilder::new().filename("x.snap").comment("by hand").write(Vec::new(), Compression::best());
        encoder.write_all(b"abc").unwrap();
        assert_eq!(expand(&encoder.finish().unwrap(), 100).unwrap(), b"abc");
    }

    #[test]
    fn anything_after_the_last_member_is_refused() {
        for tail in [&b"x"[..], b"\0", b"\x1f\x8b\x09", b"hello there"] {
            let bytes = [zip(b"abc"), tail.to_vec()].concat();
            assert!(matches!(expand(&bytes, 100), Err(ArchiveError::Trailing(_))), "{tail:?}");
        }
    }

    #[test]
    fn every_cut_is_noticed() {
        let bytes = zip(b"some bytes that are long enough to be cut");
        for length in 0..bytes.len() {
            let error = expand(&bytes[..length], 100).unwrap_err();
            assert!(matches!(error, ArchiveError::Truncated { .. } | ArchiveError::NotGzip), "{length}: {error}");
        }
    }

    #[test]
    fn a_bomb_stops_at_the_limit() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&vec![0; 1_000_000]).unwrap();
        assert!(matches!(expand(&encoder.finish().unwrap(), 4096), Err(ArchiveError::TooLarge { limit: 4096 })));
    }

    #[test]
    fn both_trailer_fields_are_checked() {
        let good = zip(b"abc");
        for offset in 1..=8 {
            let mut bytes = good.clone();
            let at = bytes.len() - offset;
            bytes[at] ^= 1;
            assert!(matches!(expand(&bytes, 100), Err(ArchiveError::Gzip(_))), "{offset}");
        }
    }
}
