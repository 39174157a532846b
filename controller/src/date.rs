//! Calendar dates of Unix times, UTC. Only what file names and certificates need.
#![forbid(unsafe_code)]

/// A moment in the Gregorian calendar, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Date {
    /// Year.
    pub year: i32,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 59.
    pub second: u8,
}

impl Date {
    /// The date of `unix_s` seconds after 1970-01-01T00:00:00Z.
    pub fn from_unix(unix_s: u64) -> Self {
        let (days, rest) = ((unix_s / 86_400) as i64, unix_s % 86_400);
        // Days are counted from 0000-03-01, so that the leap day is the last of its year; eras are 400 years.
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_index = (5 * day_of_year + 2) / 153;
        let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
        Self {
            year: (year_of_era + era * 400 + i64::from(month <= 2)) as i32,
            month: month as u8,
            day: (day_of_year - (153 * month_index + 2) / 5 + 1) as u8,
            hour: (rest / 3600) as u8,
            minute: (rest / 60 % 60) as u8,
            second: (rest % 60) as u8,
        }
    }

    /// Seconds from 1970-01-01T00:00:00Z to the beginning of a day `yyyy-MM-dd`. `None`: there is no such day, or it was before.
    pub fn parse_day(text: &str) -> Option<u64> {
        let mut parts = text.split('-').map_while(|part| part.parse::<u32>().ok());
        let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
        if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
            return None;
        }
        // The inverse of `from_unix`: years begin with March.
        let (year, month_index) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
        let day_of_year = (153 * month_index + 2) / 5 + day - 1;
        let days = u64::from(year * 365 + year / 4 - year / 100 + year / 400 + day_of_year) - 719_468;
        let seconds = days * 86_400;
        (Self::from_unix(seconds).day() == text).then_some(seconds)
    }

    /// `yyyy-MM-dd`.
    pub fn day(&self) -> String {
        format!("{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }

    /// `HH-mm-ss`.
    pub fn time(&self) -> String {
        format!("{:02}-{:02}-{:02}", self.hour, self.minute, self.second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        // date -u -d @SECONDS
        for (unix_s, day, time) in [
            (0, "1970-01-01", "00-00-00"),
            (951_782_399, "2000-02-28", "23-59-59"),
            (951_782_400, "2000-02-29", "00-00-00"),
            (951_868_800, "2000-03-01", "00-00-00"),
            (1_709_164_800, "2024-02-29", "00-00-00"),
            (1_735_689_599, "2024-12-31", "23-59-59"),
            (4_107_542_400, "2100-03-01", "00-00-00"),
        ] {
            let date = Date::from_unix(unix_s);
            assert_eq!((date.day().as_str(), date.time().as_str()), (day, time), "{unix_s}");
            assert_eq!(Date::parse_day(day), Some(unix_s / 86_400 * 86_400));
        }
        for nonsense in [
            "",
            "2026-02-29",
            "2026-13-01",
            "2026-00-10",
            "2026-01-00",
            "2026-1-1",
            "1969-12-31",
            "2026-01-01-01",
        ] {
            assert_eq!(Date::parse_day(nonsense), None, "{nonsense}");
        }
    }
}
