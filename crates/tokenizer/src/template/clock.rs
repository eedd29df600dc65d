//! The time a template may ask for (`strftime_now`): a civil date and time, and its formatting.
//!
//! There is no time zone database here: the system clock is read as UTC.

use std::fmt::Write as _;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

const SECONDS_PER_DAY: i64 = 86_400;
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// A date and time of day in the proleptic Gregorian calendar, to the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CivilTime {
    /// Seconds since 1970-01-01T00:00:00.
    seconds: i64,
}

impl CivilTime {
    /// The system clock, in UTC.
    pub fn now() -> Self {
        let seconds = match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_secs()).unwrap_or(0),
            Err(_) => 0, // a clock before 1970 is a clock that was never set
        };
        Self { seconds }
    }

    /// Formats as Python's `strftime` does in the C locale; an unknown directive stays as it is.
    pub(crate) fn strftime(self, format: &str) -> String {
        let mut out = String::with_capacity(format.len() + 16);
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let (directive, padded) = match chars.next() {
                Some('-') => (chars.next(), false), // glibc: no leading zeros
                other => (other, true),
            };
            match directive {
                Some(directive) => self.write_directive(&mut out, directive, padded),
                None => out.push('%'),
            }
        }
        out
    }

    fn write_directive(self, out: &mut String, directive: char, padded: bool) {
        let (year, month, day) = self.date();
        let second_of_day = self.seconds.rem_euclid(SECONDS_PER_DAY);
        let (hour, minute, second) = (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
        let hour12 = (hour + 11) % 12 + 1;
        let weekday = self.weekday();
        let day_of_year = self.seconds.div_euclid(SECONDS_PER_DAY) - days_from_civil(year, 1, 1) + 1;
        let mut number = |value: i64, width: usize| {
            let width = if padded { width } else { 0 };
            // Writing to a String cannot fail.
            let _ = write!(out, "{value:0width$}");
        };
        match directive {
            'Y' => number(year, 4),
            'y' => number(year.rem_euclid(100), 2),
            'm' => number(month, 2),
            'd' => number(day, 2),
            'H' => number(hour, 2),
            'I' => number(hour12, 2),
            'M' => number(minute, 2),
            'S' => number(second, 2),
            'f' => number(0, 6),
            'j' => number(day_of_year, 3),
            's' => number(self.seconds, 0),
            'w' => number(weekday as i64, 0),
            'u' => number(if weekday == 0 { 7 } else { weekday as i64 }, 0),
            'e' if padded => out.push_str(&format!("{day:2}")),
            'e' => number(day, 0),
            'B' => out.push_str(MONTHS[month as usize - 1]),
            'b' | 'h' => out.push_str(&MONTHS[month as usize - 1][..3]),
            'A' => out.push_str(WEEKDAYS[weekday]),
            'a' => out.push_str(&WEEKDAYS[weekday][..3]),
            'p' => out.push_str(if hour < 12 { "AM" } else { "PM" }),
            'Z' | 'z' => {} // the time is naive, as Python's datetime.now() is
            'F' => out.push_str(&self.strftime("%Y-%m-%d")),
            'T' | 'X' => out.push_str(&self.strftime("%H:%M:%S")),
            'R' => out.push_str(&self.strftime("%H:%M")),
            'D' | 'x' => out.push_str(&self.strftime("%m/%d/%y")),
            'c' => out.push_str(&self.strftime("%a %b %e %H:%M:%S %Y")),
            'n' => out.push('\n'),
            't' => out.push('\t'),
            '%' => out.push('%'),
            other => {
                out.push('%');
                out.push(other);
            }
        }
    }

    /// Year, month `[1, 12]` and day `[1, 31]`. The year is counted from March, so that the leap day is the last.
    fn date(self) -> (i64, i64, i64) {
        let days = self.seconds.div_euclid(SECONDS_PER_DAY) + 719_468; // since 0000-03-01
        let era = days.div_euclid(146_097); // 400 years
        let day_of_era = days.rem_euclid(146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
        let month = (shifted_month + 2) % 12 + 1;
        (era * 400 + year_of_era + i64::from(month <= 2), month, day)
    }

    /// Days since Sunday.
    fn weekday(self) -> usize {
        (self.seconds.div_euclid(SECONDS_PER_DAY) + 4).rem_euclid(7) as usize // 1970-01-01 was a Thursday
    }
}

fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let shifted_year = year - i64::from(month <= 2);
    let era = shifted_year.div_euclid(400);
    let year_of_era = shifted_year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Reads `2026-01-02T03:04:05`, or the date alone; a fraction of a second and a final `Z` are ignored.
impl FromStr for CivilTime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("time {text:?} is not of the form 2026-01-02T03:04:05");
        let (date, time) = text.split_once(['T', ' ']).unwrap_or((text, "00:00:00"));
        let time = time.trim_end_matches('Z').split('.').next().unwrap_or_default();
        let numbers = |part: &str, separator: char| -> Result<[i64; 3], String> {
            let mut fields = part.split(separator).map(|field| match field.parse::<u32>() {
                Ok(value) if value <= 9999 => Ok(i64::from(value)),
                _ => Err(wrong()),
            });
            let mut next = || fields.next().ok_or_else(wrong)?;
            let values = [next()?, next()?, next()?];
            if fields.next().is_some() { Err(wrong()) } else { Ok(values) }
        };
        let [year, month, day] = numbers(date, '-')?;
        let [hour, minute, second] = numbers(time, ':')?;
        let days = days_from_civil(year, month, day);
        let parsed = Self { seconds: days * SECONDS_PER_DAY + hour * 3600 + minute * 60 + second };
        let exists = (1..=12).contains(&month) && parsed.date() == (year, month, day);
        if exists && hour < 24 && minute < 60 && second < 60 { Ok(parsed) } else { Err(wrong()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(time: &str, format: &str, expected: &str) {
        assert_eq!(time.parse::<CivilTime>().unwrap().strftime(format), expected, "{time} {format}");
    }

    #[test]
    fn directives_format_as_in_python() {
        check("2026-01-02T03:04:05", "%Y-%m-%d %H:%M:%S", "2026-01-02 03:04:05");
        check("2026-01-02T03:04:05", "%d %B %Y, %A %b %a", "02 January 2026, Friday Jan Fri");
        check("2026-01-02T15:04:05", "%-d/%-m %I %-I %p %j %y %% %e|%q", "2/1 03 3 PM 002 26 %  2|%q");
        check("2024-02-29T00:00:00", "%F %T %j %w %u", "2024-02-29 00:00:00 060 4 4");
        check("1969-12-31T23:59:59", "%F %T %A", "1969-12-31 23:59:59 Wednesday");
        check("2000-12-31", "%c %j", "Sun Dec 31 00:00:00 2000 366");
        check("2026-01-02T03:04:05", "100%", "100%");
    }

    #[test]
    fn impossible_times_are_refused() {
        for text in
            ["", "2026", "2026-13-01", "2026-02-29", "2026-01-02T24:00:00", "2026-01-02T1:2", "x-1-1", "99999-1-1"]
        {
            assert!(text.parse::<CivilTime>().is_err(), "{text}");
        }
    }
}
