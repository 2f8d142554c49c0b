//! `time`: one moment for a whole run of a script, in UTC unless it names a zone.

use jiff::{Timestamp, Zoned, civil::DateTime, fmt::strtime, tz::TimeZone};
use rhai::Engine;

use super::function::{Function, Made, fail, shown};
use crate::{meta::DATETIME, root::schedule};

/// The longest format, in bytes; a part of it stands for 255 at most.
const MAX_FORMAT: usize = 64;

pub(super) const FUNCTIONS: &[Function] = &[
    Function::new(
        "time",
        "time.now()",
        "Seconds since 1970-01-01. It is the same moment throughout the run of a script.",
        r#"
let age = time.now() - folder.modified(event.data_file);
assert(age < 3600);
"#,
    ),
    Function::new(
        "time",
        "time.date()",
        "The date in UTC, like 2026-11-21.",
        r#"
meta.album = time.date();
assert_eq(time.date(), time.format(time.now(), "%Y-%m-%d"));
"#,
    ),
    Function::new(
        "time",
        "time.clock()",
        "The time of day in UTC, like 23:59:59.",
        r#"
if time.clock() < "00:00:00" { reject("not at night"); }
assert_eq(time.clock().len(), 8);
"#,
    ),
    Function::new(
        "time",
        "time.format(seconds, format)",
        "Formats seconds since 1970 as strftime(3) does, in UTC or the zone of time.zone(): %Y year, %m month, %d day, %H hour, %M minute, %S second, %j day of the year, %V week, %A name of the day.",
        r#"
assert_eq(time.format(1546214399, "%Y/%m"), "2018/12");
assert_eq(time.format(1546214399, "%d.%m.%Y %H:%M"), "30.12.2018 23:59");
"#,
    ),
    Function::new(
        "time",
        "time.weekday()",
        "The day of the week in UTC, 1 for Monday to 7 for Sunday.",
        r#"
if time.weekday() > 7 { reject("not on this day"); }
assert_eq(`${time.weekday()}`, time.format(time.now(), "%u"));
"#,
    ),
    Function::new(
        "time",
        "time.zone(name)",
        "The same moment in a zone of the IANA database, like Europe/Zurich: date, clock, format, weekday and parse of what it returns use that zone.",
        r#"
let here = time.zone("Europe/Zurich");
assert_eq(here.format(1546214399, "%d.%m.%Y %H:%M %Z"), "31.12.2018 00:59 CET");
assert_eq(here.parse("31-12-2018_00-59-59"), 1546214399);
if here.weekday() == 7 { log.info("it is Sunday"); }
"#,
    ),
    Function::new(
        "time",
        "time.parse(datetime)",
        "The seconds since 1970 of a moment in UTC, written as in a .meta, like 30-12-2018_23-59-59.",
        r#"
assert_eq(time.parse("30-12-2018_23-59-59"), 1546214399);
let sent = time.parse(meta.datetime);
"#,
    ),
];

/// `time` in a script.
#[derive(Clone)]
pub struct Handle(Zoned);

impl Handle {
    pub(super) fn now() -> Self {
        Self(Timestamp::now().to_zoned(TimeZone::UTC))
    }
}

fn format(zone: &TimeZone, seconds: i64, format: &str) -> Made<String> {
    let call = "time.format()";
    if format.len() > MAX_FORMAT {
        return Err(fail(format!(
            "{call}: a format may have {MAX_FORMAT} bytes"
        )));
    }
    let wrong = |e: jiff::Error| fail(format!("{call}: {e}"));
    let moment = Timestamp::from_second(seconds)
        .map_err(wrong)?
        .to_zoned(zone.clone());
    strtime::format(format, &moment).map_err(wrong)
}

fn parse(zone: &TimeZone, text: &str) -> Made<i64> {
    DateTime::strptime(DATETIME, text)
        .and_then(|moment| moment.to_zoned(zone.clone()))
        .map(|moment| moment.timestamp().as_second())
        .map_err(|_| {
            let text = shown(text);
            fail(format!(
                "time.parse(): {text} is not a time like 30-12-2018_23-59-59"
            ))
        })
}

fn zone(time: &Handle, name: &str) -> Made<Handle> {
    match schedule::zone(name) {
        Ok(zone) => Ok(Handle(time.0.with_time_zone(zone))),
        Err(why) => Err(fail(format!("time.zone(): {why}"))),
    }
}

pub(super) fn register(engine: &mut Engine) {
    engine
        .register_type_with_name::<Handle>("Time")
        .register_fn("now", |time: &mut Handle| time.0.timestamp().as_second())
        .register_fn("date", |time: &mut Handle| time.0.date().to_string())
        .register_fn("clock", |time: &mut Handle| {
            time.0.strftime("%H:%M:%S").to_string()
        })
        .register_fn("format", |time: &mut Handle, seconds: i64, text: &str| {
            format(time.0.time_zone(), seconds, text)
        })
        .register_fn("zone", |time: &mut Handle, name: &str| zone(time, name))
        .register_fn("weekday", |time: &mut Handle| {
            i64::from(time.0.weekday().to_monday_one_offset())
        })
        .register_fn("parse", |time: &mut Handle, text: &str| {
            parse(time.0.time_zone(), text)
        });
}
