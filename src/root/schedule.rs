//! A line of `[OnSchedule]` in an m2y.config.

use std::fmt;

use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};
use jiff::{
    Timestamp,
    tz::{Offset, TimeZone},
};

use super::config::unquoted;
use crate::error::printable;

/// A line of `[OnSchedule]`: when, and what runs then.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Line {
    time: Due,
    /// Scripts in their order.
    pub scripts: Vec<String>,
}

/// When a line of a schedule is due.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Due {
    /// As in cron, in UTC.
    Cron(Box<Cron>),
    /// Each day at a time of a zone: hour, minute, and the zone's name.
    At(i8, i8, String),
}

impl Due {
    fn parse(time: &str) -> Result<Self, String> {
        if let Some(inner) = time.strip_prefix("at(").and_then(|t| t.strip_suffix(')')) {
            return Self::parse_at(inner).ok_or_else(|| {
                format!(
                    "{time} is not a time: write at(\"18:30\", \"Europe/Zurich\"), with a zone of \
                     the IANA database, or at(\"18:30\") for UTC"
                )
            });
        }
        let parser = CronParser::builder()
            .seconds(Seconds::Disallowed)
            .year(Year::Disallowed)
            .build();
        let cron = parser.parse(time).map_err(|error| {
            format!(
                "{time:?} is not a time: write minute, hour, day, month and day of the week, as in \
                 */10 * * * *, or at(\"18:30\", \"Europe/Zurich\") ({error})"
            )
        })?;
        Ok(Self::Cron(Box::new(cron)))
    }

    fn parse_at(inner: &str) -> Option<Self> {
        let mut words = inner.splitn(2, ',').map(|word| unquoted(word.trim()));
        let (hour, minute) = words.next()?.split_once(':')?;
        let two_digits = |text: &str, most: i8| {
            let digits = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
            let number = text.parse().ok().filter(|_| digits);
            number.filter(|number: &i8| *number <= most)
        };
        let name = words.next().unwrap_or("UTC");
        zone(name).ok()?;
        let (hour, minute) = (two_digits(hour, 23)?, two_digits(minute, 59)?);
        Some(Self::At(hour, minute, name.to_owned()))
    }

    fn is_due(&self, time: Timestamp) -> bool {
        match self {
            Self::Cron(cron) => {
                let time = Offset::UTC.to_datetime(time);
                cron.is_time_matching(&time).unwrap_or(false)
            }
            Self::At(hour, minute, name) => {
                let Ok(zone) = zone(name) else {
                    return false;
                };
                // If the clocks are put forward over it, it runs that much later; if they are put
                // back, at the first of the two: once a day in any case.
                let date = time.to_zoned(zone.clone()).date();
                // A gap may end on the next day.
                let days = [Ok(date), date.yesterday()].into_iter().flatten();
                days.map(|day| day.at(*hour, *minute, 0, 0).to_zoned(zone.clone()))
                    .any(|at| at.is_ok_and(|at| at.timestamp() == time))
            }
        }
    }
}

impl fmt::Display for Due {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cron(cron) => f.write_str(cron.as_str()),
            Self::At(hour, minute, zone) => {
                write!(f, "at(\"{hour:02}:{minute:02}\", \"{zone}\")")
            }
        }
    }
}

/// A zone of the IANA database.
pub fn zone(name: &str) -> Result<TimeZone, String> {
    TimeZone::get(name).map_err(|_| {
        let name = printable(name, 80);
        format!("unknown time zone {name:?}: use one like Europe/Zurich or UTC")
    })
}

impl Line {
    pub(super) fn parse(time: &str, scripts: &str) -> Result<Self, String> {
        let time = Due::parse(time.trim())?;
        let scripts: Vec<String> = unquoted(scripts.trim())
            .split_whitespace()
            .map(str::to_owned)
            .collect();
        if scripts.is_empty() {
            return Err("no script stands after the time: write */10 * * * * = name.rhai".into());
        }
        Ok(Self { time, scripts })
    }

    /// Whether it is due in that minute since 1970, UTC.
    pub fn is_due(&self, minute: u64) -> bool {
        let seconds = i64::try_from(minute.saturating_mul(60)).unwrap_or(i64::MAX);
        Timestamp::from_second(seconds).is_ok_and(|time| self.time.is_due(time))
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}", self.time, self.scripts.join(" "))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_a_zone_comes_once_a_day_also_when_the_clocks_change() {
        let line = |text: &str| Line::parse(text, "x.rhai").unwrap();
        let due = |line: &Line, from: &str, hours: i64| {
            let from: Timestamp = from.parse().unwrap();
            let minutes = (0..hours * 60).map(|n| from.as_second() / 60 + n);
            let due = minutes.filter(|minute| line.is_due(minute.unsigned_abs()));
            due.map(|minute| Timestamp::from_second(minute * 60).unwrap().to_string())
                .collect::<Vec<_>>()
        };
        let evening = line("at(\"18:30\", \"Europe/Zurich\")");
        assert_eq!(
            evening.to_string(),
            "at(\"18:30\", \"Europe/Zurich\") = x.rhai"
        );
        assert_eq!(
            due(&evening, "2026-03-28T00:00:00Z", 48),
            ["2026-03-28T17:30:00Z", "2026-03-29T16:30:00Z"]
        );
        // At 2:00 it becomes 3:00; in October 3:00 becomes 2:00.
        let night = line("at(\"02:30\", 'Europe/Zurich')");
        assert_eq!(
            due(&night, "2026-03-29T00:00:00Z", 24),
            ["2026-03-29T01:30:00Z"]
        );
        assert_eq!(
            due(&night, "2026-10-24T22:00:00Z", 24),
            ["2026-10-25T00:30:00Z"]
        );
        assert_eq!(
            due(&line("at(\"00:05\")"), "2026-01-01T00:00:00Z", 24).len(),
            1
        );
        for wrong in [
            "at(18:30",
            "at(\"24:00\")",
            "at(\"9:00\")",
            "at(\"09:00\", \"Zurich\")",
        ] {
            let error = Line::parse(wrong, "x.rhai").unwrap_err();
            assert!(error.contains("Europe/Zurich"), "{error}");
        }
    }

    #[test]
    fn a_time_is_due_in_its_minutes_of_utc() {
        let minute = |text: &str| {
            let time: Timestamp = text.parse().unwrap();
            u64::try_from(time.as_second() / 60).unwrap()
        };
        for (time, at, due) in [
            ("*/10 * * * *", "2026-11-21T08:40:00Z", true),
            ("*/10 * * * *", "2026-11-21T08:41:00Z", false),
            ("*/10 * * * *", "2026-11-21T00:00:00Z", true),
            ("59 23 31 * *", "2026-12-31T23:59:00Z", true),
            ("0 0 31 * *", "2026-12-01T00:00:00Z", false),
            ("0 0 L * *", "2027-02-28T00:00:00Z", true),
            ("0 0 L * *", "2028-02-28T00:00:00Z", false),
            ("0 0 29 2 *", "2028-02-29T00:00:00Z", true),
            ("0 0 30 2 *", "2028-03-01T00:00:00Z", false),
            ("30 2 * * SUN", "2026-11-22T02:30:00Z", true),
            ("30 2 * * 7", "2026-11-22T02:30:00Z", true),
            ("30 2 * * 1-5", "2026-11-22T02:30:00Z", false),
            ("@hourly", "2026-11-22T02:00:00Z", true),
        ] {
            let line = Line::parse(time, "a").unwrap();
            assert_eq!(line.is_due(minute(at)), due, "{time} at {at}");
        }
    }
}
