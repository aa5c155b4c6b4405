//! Numbers with a unit: `64MB` for a parameter that the engine counts in `8kB`.

use serde_json::Number;

/// Bytes of each unit of memory, by the names that engines and people use. A bare `k`, `M` or `G` is none of them: of two
/// engines one means 1000 by it and the other 1024.
const MEMORY: &[(&str, i128)] = &[
    ("b", 1),
    ("byte", 1),
    ("bytes", 1),
    ("kb", 1 << 10),
    ("kib", 1 << 10),
    ("mb", 1 << 20),
    ("mib", 1 << 20),
    ("gb", 1 << 30),
    ("gib", 1 << 30),
    ("tb", 1 << 40),
    ("tib", 1 << 40),
];

/// Microseconds of each unit of time.
const TIME: &[(&str, i128)] = &[
    ("us", 1),
    ("microseconds", 1),
    ("ms", 1000),
    ("milliseconds", 1000),
    ("s", 1_000_000),
    ("second", 1_000_000),
    ("seconds", 1_000_000),
    ("min", 60 * 1_000_000),
    ("minutes", 60 * 1_000_000),
    ("h", 3600 * 1_000_000),
    ("hours", 3600 * 1_000_000),
    ("d", 24 * 3600 * 1_000_000),
    ("days", 24 * 3600 * 1_000_000),
];

/// More digits than any number of 64 bits has.
const DIGITS: usize = 20;

type Family = &'static [(&'static str, i128)];

/// The unit in which an engine counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unit {
    family: Family,
    /// How many of the family's smallest unit it is.
    size: i128,
}

fn size(family: Family, name: &str) -> Option<i128> {
    family.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, size)| *size)
}

impl Unit {
    /// A unit as an engine writes it: `8kB`, `ms`, `B`. `None` for one that is not known.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let name = text.trim_start_matches(|c: char| c.is_ascii_digit());
        let count: i128 = match &text[..text.len() - name.len()] {
            "" => 1,
            digits => digits.parse().ok().filter(|count| (1..=1 << 40).contains(count))?,
        };
        let unit = |family: Family| size(family, name).map(|size| Self { family, size: size * count });
        unit(MEMORY).or_else(|| unit(TIME))
    }

    /// What a text may look like.
    pub(super) fn example(self) -> &'static str {
        if self.family.as_ptr() == MEMORY.as_ptr() { "64MB" } else { "30s" }
    }

    /// The whole number of this unit that a text such as `64MB` or `1.5 GB` is.
    pub(super) fn whole(self, text: &str) -> Option<Number> {
        let (numerator, denominator) = self.fraction(text)?;
        let number = (numerator % denominator == 0).then_some(numerator / denominator)?;
        i64::try_from(number).ok().map(Number::from)
    }

    /// The number of this unit that a text is.
    pub(super) fn float(self, text: &str) -> Option<Number> {
        let (numerator, denominator) = self.fraction(text)?;
        if numerator % denominator == 0 {
            return i64::try_from(numerator / denominator).ok().map(Number::from);
        }
        #[allow(clippy::cast_precision_loss)]
        Number::from_f64(numerator as f64 / denominator as f64)
    }

    fn fraction(self, text: &str) -> Option<(i128, i128)> {
        let text = text.trim();
        let name = text.trim_start_matches(|c: char| c.is_ascii_digit() || matches!(c, '-' | '.'));
        let number = &text[..text.len() - name.len()];
        let factor = size(self.family, name.trim_start())?;
        let (negative, number) = number.strip_prefix('-').map_or((false, number), |number| (true, number));
        let (whole, part) = number.split_once('.').unwrap_or((number, ""));
        let digits = |text: &str| text.len() <= DIGITS && text.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !digits(whole) || !digits(part) || (number.ends_with('.')) {
            return None;
        }
        let scale = 10_i128.checked_pow(u32::try_from(part.len()).ok()?)?;
        let part: i128 = if part.is_empty() { 0 } else { part.parse().ok()? };
        let number = whole.parse::<i128>().ok()?.checked_mul(scale)?.checked_add(part)?.checked_mul(factor)?;
        Some((if negative { -number } else { number }, self.size.checked_mul(scale)?))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(unit: &str, text: &str) -> Option<i64> {
        Unit::parse(unit)?.whole(text)?.as_i64()
    }

    #[test]
    fn a_text_is_a_whole_number_of_the_engines_unit() {
        for (unit, text, number) in [
            ("8kB", "64MB", Some(8192)),
            ("8kB", "64 mb", Some(8192)),
            ("8kB", "8kB", Some(1)),
            ("8kB", "12kB", None),
            ("kB", "1.5MB", Some(1536)),
            ("kB", "-1kB", Some(-1)),
            ("MB", "1TB", Some(1 << 20)),
            ("B", "1GB", Some(1 << 30)),
            ("bytes", "1KiB", Some(1024)),
            ("16MB", "1GB", Some(64)),
            ("ms", "1min", Some(60_000)),
            ("s", "1d", Some(86_400)),
            ("min", "90s", None),
            ("ms", "64MB", None),
            ("8kB", "30s", None),
            ("B", "64M", None),
            ("B", "64", None),
            ("B", "MB", None),
            ("B", ".5MB", None),
            ("B", "1.MB", None),
            ("B", "1.2.3MB", None),
            ("B", "--1MB", None),
            ("B", "1e3MB", None),
            ("B", "99999999999999999999TB", None),
            ("B", "999999999999999999999999999999999999999MB", None),
            ("parsecs", "1MB", None),
            ("0kB", "1MB", None),
        ] {
            assert_eq!(whole(unit, text), number, "{text} in {unit}");
        }
        let float = |text| Unit::parse("ms").and_then(|unit| unit.float(text)).and_then(|number| number.as_f64());
        assert_eq!((float("2ms"), float("500us"), float("x")), (Some(2.0), Some(0.5), None));
    }

    proptest! {
        #[test]
        fn whatever_is_given_is_a_number_or_nothing(unit in "[0-9]{0,3}[a-zA-Z]{0,3}", text in "\\PC{0,24}") {
            if let Some(unit) = Unit::parse(&unit) {
                let (whole, float) = (unit.whole(&text), unit.float(&text));
                prop_assert!(whole.is_none() || whole == float);
            }
        }

        #[test]
        fn the_number_of_a_unit_is_itself(count in any::<i32>(), family in 0..2_usize, index in 0..11_usize) {
            let (name, _) = [MEMORY, TIME][family][index];
            let text = format!("{count}{name}");
            prop_assert_eq!(whole(name, &text), Some(i64::from(count)));
        }
    }
}
