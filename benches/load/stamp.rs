//! The body of a measured event: JSON of a given length that says which event it is and when it was published.

use std::time::{SystemTime, UNIX_EPOCH};

/// `{"n":"0000000042","t":"1795723883123456789","p":"xxx"}`: numbers are of fixed width, so that a reader need not search,
/// and strings, as JSON knows no leading zeros.
const SHAPE: [&[u8]; 4] = [br#"{"n":""#, br#"","t":""#, br#"","p":""#, br#""}"#];
const NUMBER: usize = 10;
const TIME: usize = 19;

/// The shortest body that holds a stamp.
pub const SHORTEST: usize =
    SHAPE[0].len() + NUMBER + SHAPE[1].len() + TIME + SHAPE[2].len() + SHAPE[3].len();

/// Which event it is, and when it was published, in nanoseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub number: u64,
    pub published: u64,
}

impl Stamp {
    /// That of an event that is published now.
    pub fn now(number: u64) -> Self {
        Self {
            number,
            published: now(),
        }
    }

    /// A body of `length` bytes, or of [`SHORTEST`] where that is more.
    pub fn body(self, length: usize) -> Vec<u8> {
        let [number, time, padding, end] = SHAPE;
        let mut body = Vec::with_capacity(length.max(SHORTEST));
        body.extend_from_slice(number);
        body.extend_from_slice(format!("{:0NUMBER$}", self.number).as_bytes());
        body.extend_from_slice(time);
        body.extend_from_slice(format!("{:0TIME$}", self.published).as_bytes());
        body.extend_from_slice(padding);
        body.resize(length.max(SHORTEST) - end.len(), b'x');
        body.extend_from_slice(end);
        body
    }

    /// The stamp of a body, if it is one of ours.
    pub fn read(body: &[u8]) -> Option<Self> {
        let (number, rest) = body.strip_prefix(SHAPE[0])?.split_at_checked(NUMBER)?;
        let (time, _) = rest.strip_prefix(SHAPE[1])?.split_at_checked(TIME)?;
        Some(Self {
            number: decimal(number)?,
            published: decimal(time)?,
        })
    }
}

/// Nanoseconds since 1970, by the clock that the kernel stamps packets with.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(since.expect("a clock after 1970").as_nanos()).expect("a year before 2554")
}

fn decimal(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0_u64, |value, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::{SHORTEST, Stamp};

    #[test]
    fn a_body_is_json_of_the_wanted_length_and_gives_its_stamp_back() {
        let stamp = Stamp {
            number: 42,
            published: 1_795_723_883_123_456_789,
        };
        for length in [SHORTEST, 100, 200, 65_536] {
            let body = stamp.body(length);
            assert_eq!(body.len(), length);
            serde_json::from_slice::<serde_json::Value>(&body).expect("JSON");
            assert_eq!(Stamp::read(&body), Some(stamp));
        }
        assert_eq!(stamp.body(0).len(), SHORTEST);
    }

    #[test]
    fn what_is_no_stamp_gives_none() {
        let whole = Stamp::now(7).body(SHORTEST);
        for length in 0..SHORTEST - 2 - 7 {
            assert_eq!(Stamp::read(&whole[..length]), None, "{length}");
        }
        assert_eq!(Stamp::read(br#"{"reason":"slow","missed":12}"#), None);
        assert_eq!(
            Stamp::read(br#"{"n":"00000000x1","t":"1795723883123456789","p":""}"#),
            None
        );
    }
}
