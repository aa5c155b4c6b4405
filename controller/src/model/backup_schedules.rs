//! Schedules of backups: when the next one is due, and which are kept. All of it is computed here, from times that are told.

use std::cmp::Ordering;
use std::time::Duration;

use croner::errors::CronError;
use croner::parser::{CronParser, Seconds, Year};
use croner::{CivilDate, CivilDateTime, CivilTime, Cron, CronDateTime, Resolution, Weekday};
use time::{Date, Month, OffsetDateTime, PrimitiveDateTime, Time};

use super::backups::{BackupState, VerificationState};
use crate::ids::{BackupId, InstanceId, ProjectId, ScheduleId};

/// What a schedule is late at most by itself, so that not all begin at once at a full hour.
const MOST_JITTER: Duration = Duration::from_secs(5 * 60);
/// Parts of which the jitter of a schedule has some.
const PARTS: u128 = 1 << 20;
/// Longest expression, bytes.
const LONGEST: usize = 100;
/// How many times of an expression are looked at for the shortest time between two, and how far ahead.
const LOOKED_AT: usize = 400;
const LOOKED_AHEAD: Duration = Duration::from_secs(2 * 366 * 24 * 3600);
/// FAILED backups of a schedule that are kept, to say why.
pub const KEPT_FAILED: usize = 3;

/// A schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupSchedule {
    pub id: ScheduleId,
    pub project: ProjectId,
    /// Of which backups are taken.
    pub instance: InstanceId,
    /// Who made it.
    pub user_id: String,
    pub rhythm: Rhythm,
    /// In each such interval, whole seconds, the first backup is a full one, and the others build on it; `None`: all are full ones.
    pub full_every: Option<Duration>,
    /// Where intervals are counted from.
    pub anchor: OffsetDateTime,
    pub keep: Keep,
    /// How often one of its backups is verified, whole seconds; `None`: never.
    pub verify: Option<Duration>,
    /// A backup that was begun at this time or later is verified once it is complete.
    pub verify_due: OffsetDateTime,
    /// The last verification of one of its backups.
    pub last_verification: Option<LastVerification>,
    /// Whether it rests: nothing is taken, nothing removed, and nothing verified.
    pub paused: bool,
    /// When its next backup is to be begun, or tried again.
    pub next_due: OffsetDateTime,
    /// How often that was tried in vain.
    pub tries: u32,
    /// When one was begun last, and which.
    pub last_run: Option<OffsetDateTime>,
    pub last_backup: Option<BackupId>,
    /// Why the last one was not begun, or has failed.
    pub fault: Option<String>,
    pub created: OffsetDateTime,
    pub updated: OffsetDateTime,
}

impl BackupSchedule {
    /// When it is due first after this time; `None`: never again.
    pub fn due_after(&self, after: OffsetDateTime) -> Option<OffsetDateTime> {
        self.rhythm.due_after(self.id, self.anchor, after)
    }

    /// Whether the backup that is begun at `now` is a full one, where the last full one was begun at `last`. Intervals are counted
    /// from the anchor, so that one each week stays one each week, however late a backup is.
    pub fn full_due(&self, last: OffsetDateTime, now: OffsetDateTime) -> bool {
        let Some(interval) = self.full_every.and_then(seconds) else { return true };
        let number = |time: OffsetDateTime| (time - self.anchor).whole_seconds().div_euclid(interval);
        number(now) > number(last)
    }

    /// From when on backups are to be begun of which the first one is verified next, once that of a backup that was begun at this
    /// time has begun. Intervals are counted from the first one, so that a verification each week stays one each week, however
    /// late a backup is; those that have passed are left out. `None`: never.
    pub fn verify_due_after(&self, begun: OffsetDateTime) -> Option<OffsetDateTime> {
        let interval = seconds(self.verify?)?;
        if begun < self.verify_due {
            return Some(self.verify_due);
        }
        let passed = (begun - self.verify_due).whole_seconds() / interval;
        let since = passed.checked_add(1)?.checked_mul(interval)?;
        self.verify_due.checked_add(time::Duration::seconds(since))
    }
}

/// A verification of a backup of a schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastVerification {
    /// It may be deleted.
    pub backup: BackupId,
    pub state: VerificationState,
    /// Since when it runs, or when it ended.
    pub at: OffsetDateTime,
    /// Why it failed, or was not begun.
    pub fault: Option<String>,
}

/// When a schedule is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rhythm {
    /// A cron expression of five fields, UTC.
    Cron(String),
    /// An interval, whole seconds.
    Every(Duration),
}

impl Rhythm {
    /// A cron expression.
    ///
    /// # Errors
    /// Why it is none, or that it never comes after `now`: "must be …".
    pub fn cron(text: &str, now: OffsetDateTime) -> Result<Self, String> {
        let fields: Vec<&str> = text.split_whitespace().collect();
        if fields.len() != 5 || text.len() > LONGEST {
            return Err(format!(
                "must be a cron expression of five fields (minute, hour, day, month, day of the week), UTC, of at most {LONGEST} bytes"
            ));
        }
        let text = fields.join(" ");
        let cron = parse(&text).map_err(|error| format!("must be a cron expression of five fields: {error}"))?;
        if next(&cron, now).is_none() {
            return Err("must come at some time, and never does".to_owned());
        }
        Ok(Self::Cron(text))
    }

    /// The shortest time between two of the next times, as far as they are looked at.
    pub fn shortest(&self, now: OffsetDateTime) -> Duration {
        let text = match self {
            Self::Every(interval) => return *interval,
            Self::Cron(text) => text,
        };
        let mut shortest = Duration::MAX;
        let Ok(cron) = parse(text) else { return shortest };
        let Some(mut at) = next(&cron, now) else { return shortest };
        for _ in 0..LOOKED_AT {
            let Some(following) = next(&cron, at).filter(|following| *following - now < LOOKED_AHEAD) else { break };
            shortest = shortest.min((following - at).unsigned_abs());
            at = following;
        }
        shortest
    }

    /// When the schedule with this id is due first after `after`, with its jitter: at most a tenth of the time to the following
    /// one, and [`MOST_JITTER`]. Times that have passed meanwhile are left out. `None`: never again.
    fn due_after(&self, id: ScheduleId, anchor: OffsetDateTime, after: OffsetDateTime) -> Option<OffsetDateTime> {
        match self {
            Self::Cron(text) => {
                let cron = parse(text).ok()?;
                let mut at = next(&cron, after.checked_sub(span(MOST_JITTER)?)?)?;
                loop {
                    let following = next(&cron, at);
                    let period = following.map_or(Duration::MAX, |following| (following - at).unsigned_abs());
                    let due = at.checked_add(span(jitter(id, period))?)?;
                    if due > after {
                        return Some(due);
                    }
                    at = following?;
                }
            }
            Self::Every(interval) => {
                let first = anchor.checked_add(span(jitter(id, *interval))?)?;
                let passed = (after - first).whole_seconds().div_euclid(seconds(*interval)?).max(0);
                let since = passed.checked_add(1)?.checked_mul(seconds(*interval)?)?;
                first.checked_add(time::Duration::seconds(since))
            }
        }
    }
}

/// What is kept of a schedule's COMPLETED backups, one bound at least. The newest is kept in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// At most so many.
    pub count: Option<u32>,
    /// None that is older, whole seconds.
    pub age: Option<Duration>,
}

impl Keep {
    /// Those of a schedule's backups, the newest first, that are kept no longer: of COMPLETED ones what is beyond a bound, of
    /// FAILED ones all but the last [`KEPT_FAILED`].
    pub fn surplus(&self, held: &[Held], now: OffsetDateTime) -> Vec<BackupId> {
        let in_state = |state: BackupState| held.iter().filter(move |backup| backup.state == state).enumerate();
        let is_beyond = |(n, backup): &(usize, &Held)| {
            let many = self.count.is_some_and(|most| u32::try_from(*n).is_ok_and(|n| n >= most));
            let old = self.age.is_some_and(|most| now - backup.created > most);
            *n > 0 && (many || old)
        };
        let completed = in_state(BackupState::Completed).filter(is_beyond);
        let failed = in_state(BackupState::Failed).skip(KEPT_FAILED);
        completed.chain(failed).map(|(_, backup)| backup.id).collect()
    }
}

/// A backup of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    pub id: BackupId,
    pub state: BackupState,
    pub created: OffsetDateTime,
}

/// How late a schedule always is, whole seconds.
fn jitter(id: ScheduleId, period: Duration) -> Duration {
    let most = MOST_JITTER.min(period / 10).as_secs();
    let part = u128::from(most) * (id.0.as_u128() % PARTS) / PARTS;
    Duration::from_secs(u64::try_from(part).unwrap_or(most))
}

fn seconds(duration: Duration) -> Option<i64> {
    i64::try_from(duration.as_secs()).ok().filter(|seconds| *seconds > 0)
}

fn span(duration: Duration) -> Option<time::Duration> {
    time::Duration::try_from(duration).ok()
}

fn parse(text: &str) -> Result<Cron, CronError> {
    let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
    parser.parse(text)
}

/// The first time of an expression after this one.
fn next(cron: &Cron, after: OffsetDateTime) -> Option<OffsetDateTime> {
    cron.find_next_occurrence(&Utc(after), false).ok().map(|Utc(time)| time)
}

/// A time, UTC, as the crate for expressions takes it.
#[derive(Clone, Copy)]
struct Utc(OffsetDateTime);

impl CronDateTime for Utc {
    fn to_civil(&self) -> CivilDateTime {
        let (date, time) = (self.0.date(), self.0.time());
        CivilDateTime::new(
            CivilDate::from_parts_unchecked(date.year(), u8::from(date.month()).into(), date.day().into()),
            CivilTime::from_parts_unchecked(time.hour().into(), time.minute().into(), time.second().into()),
        )
    }

    fn civil_weekday(&self) -> Weekday {
        Weekday::from_days_from_sunday(self.0.weekday().number_days_from_sunday().into())
    }

    fn resolve_civil(&self, civil: CivilDateTime) -> Result<Resolution<Self>, CronError> {
        let date = || {
            let month = Month::try_from(u8::try_from(civil.month()).ok()?).ok()?;
            Date::from_calendar_date(civil.year(), month, u8::try_from(civil.day()).ok()?).ok()
        };
        let time = || {
            let part = |part: u32| u8::try_from(part).ok();
            Time::from_hms(part(civil.hour())?, part(civil.minute())?, part(civil.second())?).ok()
        };
        let date = date().ok_or(CronError::InvalidDate)?;
        let time = time().ok_or(CronError::InvalidTime)?;
        Ok(Resolution::Single(Self(PrimitiveDateTime::new(date, time).assume_utc())))
    }

    fn checked_add_seconds(&self, seconds: i64) -> Option<Self> {
        self.0.checked_add(time::Duration::seconds(seconds)).map(Self)
    }

    fn cmp_instant(&self, other: &Self) -> Ordering {
        self.0.cmp(&other.0)
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;
    use uuid::Uuid;

    use super::*;
    use crate::testing::store::schedule;

    const HOUR: Duration = Duration::from_secs(3600);
    const NOW: OffsetDateTime = datetime!(2026-11-29 10:00:30 UTC);

    /// Ids without jitter and with nearly all of it.
    fn ids() -> [ScheduleId; 2] {
        [ScheduleId(Uuid::from_u128(0)), ScheduleId(Uuid::from_u128(PARTS - 1))]
    }

    fn cron(text: &str) -> Rhythm {
        Rhythm::cron(text, NOW).unwrap()
    }

    #[test]
    fn expressions_mean_what_cron_means_by_them() {
        let [punctual, _] = ids();
        for (text, due) in [
            ("0 3 * * *", datetime!(2026-11-30 3:00 UTC)),
            (" 30  10 * * * ", datetime!(2026-11-29 10:30 UTC)),
            ("0 10 * * *", datetime!(2026-11-30 10:00 UTC)),
            ("*/15 * * * *", datetime!(2026-11-29 10:15 UTC)),
            // 29 November 2026 is a Sunday, which is 0 and 7; 1 is Monday.
            ("0 3 * * 1", datetime!(2026-11-30 3:00 UTC)),
            ("0 3 * * 0", datetime!(2026-12-06 3:00 UTC)),
            ("0 3 * * 7", datetime!(2026-12-06 3:00 UTC)),
            ("0 3 * * sat", datetime!(2026-12-05 3:00 UTC)),
            // A day of the month or a day of the week.
            ("0 3 3 * 2", datetime!(2026-12-01 3:00 UTC)),
            ("0 3 1 jan *", datetime!(2027-1-1 3:00 UTC)),
            ("0 0 29 2 *", datetime!(2028-2-29 0:00 UTC)),
            ("0 0 L * *", datetime!(2026-11-30 0:00 UTC)),
        ] {
            assert_eq!(cron(text).due_after(punctual, NOW, NOW), Some(due), "{text}");
        }
        let Rhythm::Cron(text) = cron(" 30  10 * * * ") else { unreachable!() };
        assert_eq!(text, "30 10 * * *");
    }

    #[test]
    fn what_is_no_expression_or_never_comes_is_refused() {
        for (text, why) in [
            ("", "five fields"),
            ("0 3 * *", "five fields"),
            ("0 0 3 * * *", "five fields"),
            ("@daily", "five fields"),
            ("60 3 * * *", "cron expression"),
            ("x 3 * * *", "cron expression"),
            ("0 25 * * *", "cron expression"),
            ("0 3 32 * *", "cron expression"),
            ("0 3 * 13 *", "cron expression"),
            ("*/0 3 * * *", "cron expression"),
            ("0 0 31 2 *", "never"),
            ("0 0 30,31 2 *", "never"),
        ] {
            let refused = Rhythm::cron(text, NOW).unwrap_err();
            assert!(refused.contains(why), "{text}: {refused}");
        }
        assert!(Rhythm::cron(&format!("0 3 * * {}", "1,".repeat(60)), NOW).is_err());
    }

    #[test]
    fn the_shortest_time_between_two_is_found() {
        for (text, shortest) in [
            ("0 3 * * *", 24 * HOUR),
            ("* * * * *", HOUR / 60),
            ("0,5 3 1 1 *", HOUR / 12),
            ("55,0 23,0 * * *", HOUR / 12),
            ("0 3 * * 1-5", 24 * HOUR),
            ("0 */6 * * *", 6 * HOUR),
        ] {
            assert_eq!(cron(text).shortest(NOW), shortest, "{text}");
        }
        assert_eq!(Rhythm::Every(HOUR).shortest(NOW), HOUR);
    }

    #[test]
    fn intervals_are_counted_from_their_beginning_and_missed_ones_are_left_out() {
        let [punctual, _] = ids();
        let (every, anchor) = (Rhythm::Every(6 * HOUR), datetime!(2026-11-29 10:00 UTC));
        for (after, due) in [
            (datetime!(2026-11-29 10:00 UTC), datetime!(2026-11-29 16:00 UTC)),
            (datetime!(2026-11-29 15:59:59.9 UTC), datetime!(2026-11-29 16:00 UTC)),
            (datetime!(2026-11-29 16:00 UTC), datetime!(2026-11-29 22:00 UTC)),
            (datetime!(2026-12-01 9:00 UTC), datetime!(2026-12-01 10:00 UTC)),
            (datetime!(2026-11-28 9:00 UTC), datetime!(2026-11-29 16:00 UTC)),
        ] {
            assert_eq!(every.due_after(punctual, anchor, after), Some(due), "{after}");
        }
    }

    #[test]
    fn a_verification_each_week_stays_one_each_week_and_is_never_due_twice_for_a_backup() {
        let (week, due) = (7 * 24 * HOUR, datetime!(2026-11-30 15:00 UTC));
        let mut schedule =
            BackupSchedule { verify: Some(week), verify_due: due, ..schedule(InstanceId::random(), NOW) };
        for (begun, next) in [
            // A backup of before: a person has it verified.
            (due - Duration::from_millis(1), due),
            (due - HOUR, due),
            (due - 30 * week, due),
            (due, due + week),
            (due + 12 * HOUR, due + week),
            (due + week - HOUR, due + week),
            (due + week, due + 2 * week),
            (due + 5 * week + HOUR, due + 6 * week),
        ] {
            assert_eq!(schedule.verify_due_after(begun), Some(next), "{begun}");
        }
        schedule.verify = None;
        assert_eq!(schedule.verify_due_after(due), None);
    }

    #[test]
    fn the_first_backup_in_each_interval_is_a_full_one() {
        let day = 24 * HOUR;
        let weekly = BackupSchedule { full_every: Some(7 * day), ..schedule(InstanceId::random(), NOW) };
        let first = NOW + 12 * HOUR;
        let full: Vec<u32> = (1..=21).filter(|days| weekly.full_due(first, NOW + *days * day + 12 * HOUR)).collect();
        assert_eq!(full.first(), Some(&7));
        assert_eq!(full.len(), 15, "until one is taken");
        let late = first + 7 * day + HOUR;
        assert!(!weekly.full_due(late, late + 6 * day) && weekly.full_due(late, late + 7 * day - HOUR / 2));
        assert!(weekly.full_due(NOW - HOUR, NOW), "one of before another rhythm");
        let all = BackupSchedule { full_every: None, ..weekly };
        assert!(all.full_due(first, first + HOUR));
    }

    #[test]
    fn each_is_late_by_its_own_time_at_most_a_tenth_and_five_minutes() {
        let [_, late] = ids();
        let anchor = datetime!(2026-11-29 10:00 UTC);
        for (rhythm, due) in [
            (Rhythm::Every(24 * HOUR), datetime!(2026-11-30 10:04:59 UTC)),
            (Rhythm::Every(HOUR / 4), datetime!(2026-11-29 10:16:29 UTC)),
            (cron("0 3 * * *"), datetime!(2026-11-30 3:04:59 UTC)),
            (cron("*/20 * * * *"), datetime!(2026-11-29 10:01:59 UTC)),
        ] {
            assert_eq!(rhythm.due_after(late, anchor, NOW), Some(due), "{rhythm:?}");
            // When it is fired the next one follows, and none is due twice.
            let mut at = due;
            for _ in 0..50 {
                let next = rhythm.due_after(late, anchor, at).unwrap();
                assert_eq!(next - at, rhythm.shortest(NOW), "{rhythm:?} after {at}");
                at = next;
            }
        }
        assert_eq!(
            cron("*/20 * * * *").due_after(late, anchor, datetime!(2026-11-29 10:01:59 UTC)),
            Some(datetime!(2026-11-29 10:21:59 UTC))
        );
    }

    #[test]
    fn the_newest_is_kept_whatever_the_bounds_are_and_a_few_failed_ones() {
        use BackupState::{Building, Completed, DeleteFailed, Failed};
        let held = |state, hours: u32| Held { id: BackupId::random(), state, created: NOW - HOUR * hours };
        let all = [
            held(Building, 0),
            held(Failed, 1),
            held(Completed, 2),
            held(Failed, 3),
            held(Completed, 4),
            held(Failed, 5),
            held(Completed, 6),
            held(Failed, 7),
            held(DeleteFailed, 8),
            held(Completed, 9),
        ];
        let surplus = |count, age| {
            let keep = Keep { count, age };
            let found = keep.surplus(&all, NOW);
            (0..all.len()).filter(|n| found.contains(&all[*n].id)).collect::<Vec<_>>()
        };
        assert_eq!(surplus(Some(2), None), [6, 7, 9]);
        assert_eq!(surplus(None, Some(6 * HOUR)), [7, 9], "not one that is just as old");
        assert_eq!(surplus(None, Some(Duration::from_secs(1))), [4, 6, 7, 9]);
        assert_eq!(surplus(Some(1), Some(100 * HOUR)), [4, 6, 7, 9]);
        assert_eq!(surplus(Some(100), Some(5 * HOUR)), [6, 7, 9], "either bound");
        assert_eq!(surplus(Some(100), None), [7]);
    }
}
