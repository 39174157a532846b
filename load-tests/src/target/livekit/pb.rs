//! Protocol Buffers on the wire, as much as LiveKit's signaling needs: varints and length-delimited fields.
//!
//! ```text
//! field = varint(number << 3 | type) value      type 0: varint   2: varint(length) bytes   1, 5: 8 or 4 bytes, passed over
//! ```

use anyhow::{Context as _, Result, bail};

/// A message being written.
#[derive(Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    /// A number, a boolean or an enum's value.
    pub(super) fn number(mut self, field: u32, value: u64) -> Writer {
        self.varint(u64::from(field) << 3);
        self.varint(value);
        self
    }

    /// A text.
    pub(super) fn text(self, field: u32, value: &str) -> Writer {
        self.bytes(field, value.as_bytes())
    }

    /// A message inside.
    pub(super) fn message(self, field: u32, value: Writer) -> Writer {
        self.bytes(field, &value.0)
    }

    /// The message's bytes.
    pub(super) fn finish(self) -> Vec<u8> {
        self.0
    }

    fn bytes(mut self, field: u32, value: &[u8]) -> Writer {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    fn varint(&mut self, mut value: u64) {
        while value > 0x7f {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

/// A field's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// A message that was read.
#[derive(Debug, Default)]
pub(super) struct Message<'a>(Vec<(u32, Value<'a>)>);

impl<'a> Message<'a> {
    /// Reads all fields.
    ///
    /// # Errors
    /// When the bytes are no message.
    pub(super) fn read(mut bytes: &'a [u8]) -> Result<Message<'a>> {
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            let key = varint(&mut bytes)?;
            let field = u32::try_from(key >> 3).context("a field's number")?;
            match key & 7 {
                0 => fields.push((field, Value::Number(varint(&mut bytes)?))),
                1 => drop(take(&mut bytes, 8)?),
                2 => {
                    let length = usize::try_from(varint(&mut bytes)?).context("a field's length")?;
                    fields.push((field, Value::Bytes(take(&mut bytes, length)?)));
                }
                5 => drop(take(&mut bytes, 4)?),
                other => bail!("wire type {other}"),
            }
        }
        Ok(Message(fields))
    }

    /// A number; 0 when it is absent.
    pub(super) fn number(&self, field: u32) -> u64 {
        let number = self.0.iter().rev().find_map(|(name, value)| match value {
            Value::Number(number) if *name == field => Some(*number),
            _ => None,
        });
        number.unwrap_or(0)
    }

    /// A text; empty when it is absent.
    pub(super) fn text(&self, field: u32) -> String {
        String::from_utf8_lossy(self.all(field).last().unwrap_or_default()).into_owned()
    }

    /// A message inside; `None` when it is absent.
    pub(super) fn message(&self, field: u32) -> Result<Option<Message<'a>>> {
        self.all(field).last().map(Message::read).transpose()
    }

    /// A repeated message's bytes.
    pub(super) fn all(&self, field: u32) -> impl Iterator<Item = &'a [u8]> {
        self.0.iter().filter_map(move |(name, value)| match value {
            Value::Bytes(bytes) if *name == field => Some(*bytes),
            _ => None,
        })
    }
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Result<&'a [u8]> {
    let (head, tail) = bytes.split_at_checked(count).context("the message ends early")?;
    *bytes = tail;
    Ok(head)
}

fn varint(bytes: &mut &[u8]) -> Result<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    bail!("a varint of more than ten bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_specifications_examples() {
        // Encoding guide: field 1 = 150; field 2 = "testing"; field 3 = the first message.
        assert_eq!(Writer::default().number(1, 150).finish(), [0x08, 0x96, 0x01]);
        assert_eq!(Writer::default().text(2, "testing").finish(), *b"\x12\x07testing");
        let inside = Writer::default().message(3, Writer::default().number(1, 150)).finish();
        assert_eq!(inside, [0x1a, 0x03, 0x08, 0x96, 0x01]);
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = Writer::default()
            .number(1, u64::MAX)
            .text(17, "x")
            .message(3, Writer::default().text(1, "inner"))
            .message(3, Writer::default())
            .finish();
        let message = Message::read(&bytes).expect("a message");
        assert_eq!((message.number(1), message.text(17)), (u64::MAX, "x".into()));
        assert_eq!(message.all(3).count(), 2);
        assert_eq!((message.number(9), message.text(9)), (0, String::new()));
        let first = message.all(3).next().expect("the first one");
        assert_eq!(Message::read(first).expect("a message").text(1), "inner");
    }

    #[test]
    fn fixed_width_fields_are_passed_over_and_broken_bytes_refused() {
        let message =
            Message::read(&[0x09, 1, 2, 3, 4, 5, 6, 7, 8, 0x15, 1, 2, 3, 4, 0x18, 5]).expect("a message");
        assert_eq!(message.number(3), 5);
        for broken in [&[0x08][..], &[0x12, 5, 1], &[0x0b], &[0xff; 11]] {
            assert!(Message::read(broken).is_err(), "{broken:?}");
        }
    }
}
