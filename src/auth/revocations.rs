//! What was revoked before its time, and which streams that ends: one place for every door. It is told, by whoever reads
//! it somewhere, and it asks nobody.
//!
//! Revocations are forgotten when what they revoke has ended anyway. A stream that is watched costs nothing until it is
//! meant: its holder's other streams and nobody else's are looked at.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use atomic_waker::AtomicWaker;
use tokio::sync::watch;
use tokio::time::timeout;

use super::grant::{Grant, Wanted};
use crate::event::audience::Identifier;

/// For how long clocks may differ, and a token may outlive its end: a revocation is remembered for so much longer.
const LEEWAY: Duration = Duration::from_secs(60);

/// How long a request waits at a replica that has just started and does not know yet what was revoked.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a client should wait then, in seconds.
const RETRY_AFTER_SECONDS: u16 = 5;

/// Something that is revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// What.
    pub subject: Subject,
    /// When: of a user, what was issued later is good.
    pub revoked_at: SystemTime,
    /// When the last that it refuses has ended by itself.
    pub expires_at: SystemTime,
}

/// What can be revoked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// The token of this id (RFC 7519 §4.1.7).
    Token(String),
    /// All that a user holds.
    User {
        /// In this tenant; none: in whichever.
        tenant: Option<Identifier>,
        /// Who.
        user: Identifier,
    },
}

/// Why a grant is worth nothing here. The text is for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It was revoked.
    #[error("this token was revoked: log in again")]
    Revoked,
    /// Nobody knows here yet.
    #[error(
        "this replica has not read yet which tokens were revoked, as it cannot reach RabbitMQ; try again"
    )]
    Uninformed,
}

impl Refused {
    /// After how many seconds it may be otherwise, if ever.
    #[must_use]
    pub fn retry_after_seconds(self) -> Option<u16> {
        match self {
            Self::Revoked => None,
            Self::Uninformed => Some(RETRY_AFTER_SECONDS),
        }
    }
}

/// All that is revoked, as far as this process knows. Cheap to clone: all clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Revocations {
    /// None where no tokens are checked: nothing is ever revoked there.
    shared: Option<Arc<Shared>>,
}

#[derive(Debug)]
struct Shared {
    /// Held for moments, never across an await.
    ledger: Mutex<Ledger>,
    /// Whether all is known that was revoked before this process began. Never taken back.
    informed: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Ledger {
    known: HashMap<Subject, Standing>,
    /// When each of these is forgotten; as many as `known`.
    forget_at: BTreeSet<(SystemTime, Subject)>,
    /// Streams by what they can be revoked by, and by their number: one may be here several times.
    streams: BTreeMap<(Holder, u64), Arc<Stream>>,
    next_stream: u64,
}

/// The latest of what is known of a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Standing {
    revoked_at: SystemTime,
    expires_at: SystemTime,
}

/// What a stream is found by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Holder {
    Token(String),
    User(Identifier),
}

/// A stream that is open.
#[derive(Debug)]
struct Stream {
    identity: Identity,
    is_revoked: AtomicBool,
    waker: AtomicWaker,
}

/// Whose a request is, as far as revoking goes.
#[derive(Clone, Debug)]
struct Identity {
    tenant: Option<Identifier>,
    users: Vec<Identifier>,
    token_id: Option<String>,
    issued: Issued,
}

/// Since when somebody has said that it may.
#[derive(Clone, Copy, Debug)]
enum Issued {
    /// The token was issued then, if it says so.
    Token(Option<SystemTime>),
    /// A trusted front end has asked for the stream then.
    Asked(SystemTime),
}

impl Revocations {
    /// For where tokens are checked: nothing is known yet, until [`Revocations::inform`].
    #[must_use]
    pub fn awaited() -> Self {
        Self {
            shared: Some(Arc::new(Shared {
                ledger: Mutex::default(),
                informed: watch::Sender::new(false),
            })),
        }
    }

    /// All that was revoked before this process began has been applied.
    pub fn inform(&self) {
        if let Some(shared) = &self.shared {
            shared.informed.send_replace(true);
        }
    }

    /// Takes note of a revocation and ends the streams that it means. How many those were, or none if it says nothing new.
    pub fn apply(&self, revocation: Revocation, now: SystemTime) -> Option<usize> {
        let shared = self.shared.as_ref()?;
        let ended = shared.lock().apply(revocation, now)?;
        for stream in &ended {
            // In this order: who is woken finds it.
            stream.is_revoked.store(true, Ordering::Release);
            stream.waker.wake();
        }
        Some(ended.len())
    }

    /// Forgets what has ended by itself.
    pub fn forget(&self, now: SystemTime) {
        if let Some(shared) = &self.shared {
            shared.lock().forget(now);
        }
    }

    /// How many are known.
    #[must_use]
    pub fn count(&self) -> usize {
        self.shared
            .as_ref()
            .map_or(0, |shared| shared.lock().known.len())
    }

    /// Resolves when all is known that was revoked before this process began. Until then nothing may be sent. Cancel-safe.
    pub async fn informed(&self) {
        if let Some(shared) = &self.shared {
            let mut informed = shared.informed.subscribe();
            // The sender is held here: it cannot be gone.
            drop(informed.wait_for(|informed| *informed).await);
        }
    }

    /// Whether a grant is good, for what acts at once. To be asked right after a door has learned whose request it is. A
    /// stream needs it not: it is sent nothing before all is known, and ends when that says so. Where this replica has
    /// just started, it waits a little for what it must know. Cancel-safe.
    ///
    /// # Errors
    /// [`Refused`] when it is not, or when nobody can say.
    pub async fn check(&self, grant: &Grant) -> Result<(), Refused> {
        let Some(shared) = self.shared.as_ref().filter(|_| !grant.is_undivided()) else {
            // A trusted front end that asks has decided just now that it may.
            return Ok(());
        };
        let identity = Identity::of_token(grant);
        shared.lock().check(&identity)?;
        if *shared.informed.borrow() {
            return Ok(());
        }
        let waited = timeout(PATIENCE, self.informed()).await;
        waited.map_err(|_| Refused::Uninformed)?;
        shared.lock().check(&identity)
    }

    /// Watches a stream that this grant is to open. `now` is when it was asked for.
    ///
    /// # Errors
    /// [`Refused::Revoked`] when the grant was revoked since it was checked.
    pub fn watch(&self, grant: &Grant, wanted: &Wanted, now: SystemTime) -> Result<Watch, Refused> {
        let Some(shared) = &self.shared else {
            return Ok(Watch::default());
        };
        let identity = if grant.is_undivided() {
            Identity::of_request(wanted, now)
        } else {
            Identity::of_token(grant)
        };
        let mut ledger = shared.lock();
        // Under the lock: what is revoked from here on finds the stream.
        if !grant.is_undivided() {
            ledger.check(&identity)?;
        }
        let (number, stream) = ledger.open(identity);
        drop(ledger);
        Ok(Watch {
            watched: Some(Watched {
                shared: Arc::clone(shared),
                number,
                stream,
            }),
        })
    }
}

/// The eye on one stream, until it is dropped.
#[derive(Debug, Default)]
pub struct Watch {
    watched: Option<Watched>,
}

#[derive(Debug)]
struct Watched {
    shared: Arc<Shared>,
    number: u64,
    stream: Arc<Stream>,
}

impl Watch {
    /// Whether the stream must end.
    #[must_use]
    pub fn is_revoked(&self) -> bool {
        let watched = self.watched.as_ref();
        watched.is_some_and(|watched| watched.stream.is_revoked.load(Ordering::Acquire))
    }

    /// Ready when the stream must end. The task is woken when that comes.
    pub fn poll_revoked(&self, context: &mut Context<'_>) -> Poll<()> {
        let Some(watched) = &self.watched else {
            return Poll::Pending;
        };
        watched.stream.waker.register(context.waker());
        if self.is_revoked() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.shared.lock().close(self.number, &self.stream);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ledger {
    fn apply(&mut self, revocation: Revocation, now: SystemTime) -> Option<Vec<Arc<Stream>>> {
        let Revocation {
            subject,
            revoked_at,
            expires_at,
        } = revocation;
        let mut standing = Standing {
            revoked_at,
            expires_at,
        };
        let before = self.known.get(&subject).copied();
        if let Some(before) = before {
            standing.revoked_at = standing.revoked_at.max(before.revoked_at);
            standing.expires_at = standing.expires_at.max(before.expires_at);
        }
        let forget_at = standing.forget_at();
        if before == Some(standing) || forget_at <= now {
            return None;
        }
        if let Some(before) = before {
            self.forget_at
                .remove(&(before.forget_at(), subject.clone()));
        }
        self.forget_at.insert((forget_at, subject.clone()));
        let ended = self
            .streams_of(Holder::of(&subject))
            .filter(|stream| stream.identity.is_meant(&subject, standing))
            .map(Arc::clone)
            .collect();
        self.known.insert(subject, standing);
        Some(ended)
    }

    fn streams_of(&self, holder: Holder) -> impl Iterator<Item = &Arc<Stream>> {
        let range = (holder.clone(), 0)..=(holder, u64::MAX);
        self.streams.range(range).map(|(_, stream)| stream)
    }

    fn forget(&mut self, now: SystemTime) {
        while let Some((at, _)) = self.forget_at.first()
            && *at <= now
            && let Some((_, subject)) = self.forget_at.pop_first()
        {
            self.known.remove(&subject);
        }
    }

    fn check(&self, identity: &Identity) -> Result<(), Refused> {
        let is_revoked = identity.subjects().any(|subject| {
            let standing = self.known.get(&subject);
            standing.is_some_and(|standing| identity.is_meant(&subject, *standing))
        });
        if is_revoked {
            Err(Refused::Revoked)
        } else {
            Ok(())
        }
    }

    fn open(&mut self, identity: Identity) -> (u64, Arc<Stream>) {
        let number = self.next_stream;
        self.next_stream += 1;
        let stream = Arc::new(Stream {
            identity,
            is_revoked: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        });
        for holder in stream.identity.holders() {
            self.streams.insert((holder, number), Arc::clone(&stream));
        }
        (number, stream)
    }

    fn close(&mut self, number: u64, stream: &Stream) {
        for holder in stream.identity.holders() {
            self.streams.remove(&(holder, number));
        }
    }
}

impl Standing {
    fn forget_at(self) -> SystemTime {
        later(self.expires_at, LEEWAY)
    }
}

impl Holder {
    fn of(subject: &Subject) -> Self {
        match subject {
            Subject::Token(id) => Self::Token(id.clone()),
            Subject::User { user, .. } => Self::User(user.clone()),
        }
    }
}

impl Identity {
    fn of_token(grant: &Grant) -> Self {
        let validity = grant.validity();
        Self {
            tenant: grant.tenant().cloned(),
            users: grant.user().into_iter().cloned().collect(),
            token_id: validity.token_id.clone(),
            issued: Issued::Token(validity.issued_at),
        }
    }

    /// Where nobody is told apart, whoever is asked for holds the stream.
    fn of_request(wanted: &Wanted, now: SystemTime) -> Self {
        Self {
            tenant: wanted.tenant.clone(),
            users: wanted.users.clone(),
            token_id: None,
            issued: Issued::Asked(now),
        }
    }

    fn holders(&self) -> impl Iterator<Item = Holder> {
        let tokens = self.token_id.iter().cloned().map(Holder::Token);
        tokens.chain(self.users.iter().cloned().map(Holder::User))
    }

    /// All that it could be revoked by.
    fn subjects(&self) -> impl Iterator<Item = Subject> {
        let tokens = self.token_id.iter().cloned().map(Subject::Token);
        let users = self.users.iter().flat_map(|user| {
            let own = self.tenant.iter().cloned().map(Some);
            own.chain([None]).map(|tenant| Subject::User {
                tenant,
                user: user.clone(),
            })
        });
        tokens.chain(users)
    }

    fn is_meant(&self, subject: &Subject, standing: Standing) -> bool {
        match subject {
            Subject::Token(id) => self.token_id.as_ref() == Some(id),
            Subject::User { tenant, user } => {
                self.users.contains(user)
                    && (tenant.is_none() || *tenant == self.tenant)
                    && self.issued.is_before(standing.revoked_at)
            }
        }
    }
}

impl Issued {
    /// Whether it was said before, or nobody knows when.
    fn is_before(self, revoked_at: SystemTime) -> bool {
        match self {
            Self::Token(issued_at) => issued_at.is_none_or(|issued_at| issued_at <= revoked_at),
            // By two clocks of ours.
            Self::Asked(at) => at <= later(revoked_at, LEEWAY),
        }
    }
}

/// A time so much later, or as it is where no clock goes so far.
fn later(time: SystemTime, by: Duration) -> SystemTime {
    time.checked_add(by).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet as Set;
    use std::future::poll_fn;
    use std::sync::atomic::AtomicUsize;
    use std::task::{Wake, Waker};

    use super::*;
    use crate::auth::{Permission, Reach, Validity};

    const HOUR: Duration = Duration::from_secs(3600);

    fn name(text: &str) -> Identifier {
        text.parse().unwrap()
    }

    /// A moment, in seconds after the one when everything here begins.
    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds)
    }

    /// Something that a token may say, written shortly.
    fn grant(tenant: &str, user: &str, token_id: &str, issued_at: Option<u64>) -> Grant {
        let some = |text: &str| Some(text).filter(|text| !text.is_empty()).map(name);
        let reach = Reach::Somebody {
            tenant: some(tenant),
            user: some(user),
            teams: Set::new(),
            channels: Vec::new(),
        };
        let validity = Validity {
            expires_at: None,
            issued_at: issued_at.map(at),
            token_id: Some(token_id.to_owned()).filter(|id| !id.is_empty()),
            leeway: Duration::ZERO,
        };
        Grant::new(reach, vec![Permission::Read], validity)
    }

    fn token(id: &str) -> Subject {
        Subject::Token(id.to_owned())
    }

    fn user(tenant: &str, user: &str) -> Subject {
        Subject::User {
            tenant: Some(tenant).filter(|tenant| !tenant.is_empty()).map(name),
            user: name(user),
        }
    }

    /// Revoked at the second 100, for an hour.
    fn revocation(subject: Subject) -> Revocation {
        Revocation {
            subject,
            revoked_at: at(100),
            expires_at: at(100) + HOUR,
        }
    }

    fn informed() -> Revocations {
        let revocations = Revocations::awaited();
        revocations.inform();
        revocations
    }

    fn watch(revocations: &Revocations, grant: &Grant) -> Watch {
        revocations.watch(grant, &Wanted::default(), at(0)).unwrap()
    }

    #[tokio::test]
    async fn what_is_revoked_is_refused_and_its_streams_end_and_nothing_else() {
        let revoked = Err(Refused::Revoked);
        let cases = [
            (token("j1"), grant("acme", "42", "j1", Some(50)), revoked),
            (token("j1"), grant("", "", "j1", None), revoked),
            (token("j1"), grant("", "", "j1", Some(150)), revoked),
            (token("j1"), grant("acme", "42", "j2", Some(50)), Ok(())),
            (token("j1"), grant("acme", "42", "", Some(50)), Ok(())),
            (token("42"), grant("acme", "42", "", Some(50)), Ok(())),
            (user("", "42"), grant("", "42", "j1", Some(50)), revoked),
            (user("", "42"), grant("acme", "42", "", Some(50)), revoked),
            (user("", "42"), grant("", "42", "", Some(100)), revoked),
            (user("", "42"), grant("", "42", "", None), revoked),
            (user("", "42"), grant("", "42", "", Some(101)), Ok(())),
            (user("", "42"), grant("", "43", "", Some(50)), Ok(())),
            (user("", "42"), grant("", "", "42", Some(50)), Ok(())),
            (user("acme", "42"), grant("acme", "42", "", None), revoked),
            (user("acme", "42"), grant("other", "42", "", None), Ok(())),
            (user("acme", "42"), grant("", "42", "", None), Ok(())),
        ];
        for (subject, grant, expected) in cases {
            let revocations = informed();
            let open = watch(&revocations, &grant);
            assert!(!open.is_revoked());
            let ended = revocations.apply(revocation(subject.clone()), at(100));
            let what = format!("{subject:?}, {grant:?}");
            assert_eq!(ended, Some(usize::from(expected.is_err())), "{what}");
            assert_eq!(open.is_revoked(), expected.is_err(), "{what}");
            assert_eq!(revocations.check(&grant).await, expected, "{what}");
            let again = revocations.watch(&grant, &Wanted::default(), at(101));
            assert_eq!(again.map(drop), expected, "{what}");
        }
    }

    #[tokio::test]
    async fn where_a_front_end_is_believed_streams_end_and_what_it_asks_for_later_is_served() {
        let revocations = informed();
        let front_end = Grant::undivided(&Permission::ALL);
        let wanted = |users: &[&str], tenant: Option<&str>| Wanted {
            users: users.iter().map(|user| name(user)).collect(),
            tenant: tenant.map(name),
            ..Wanted::default()
        };
        let open = |wanted: &Wanted, now| revocations.watch(&front_end, wanted, at(now)).unwrap();
        let meant = open(&wanted(&["41", "42"], None), 0);
        let in_tenant = open(&wanted(&["42"], Some("acme")), 0);
        let other = open(&wanted(&["43"], None), 0);
        let everything = open(&wanted(&[], None), 0);
        let much_later = open(&wanted(&["42"], None), 100 + 61);
        let ended = revocations.apply(revocation(user("", "42")), at(100));
        assert_eq!(ended, Some(2));
        assert!(meant.is_revoked() && in_tenant.is_revoked());
        assert!(!other.is_revoked() && !everything.is_revoked() && !much_later.is_revoked());
        assert_eq!(revocations.check(&front_end).await, Ok(()));
        let asked_again = open(&wanted(&["42"], None), 101);
        // What every replica hears from the broker it may have known.
        let heard = revocations.apply(revocation(user("", "42")), at(102));
        assert_eq!(heard, None);
        assert!(!asked_again.is_revoked());
    }

    #[test]
    fn a_second_revocation_that_says_more_counts_and_one_that_says_less_does_not() {
        let revocations = informed();
        let at_and_until = |revoked, expires| Revocation {
            subject: user("", "42"),
            revoked_at: at(revoked),
            expires_at: at(expires),
        };
        let logged_in_again = watch(&revocations, &grant("", "42", "", Some(150)));
        assert_eq!(revocations.apply(at_and_until(100, 1000), at(200)), Some(0));
        assert_eq!(revocations.apply(at_and_until(90, 900), at(200)), None);
        assert_eq!(revocations.apply(at_and_until(200, 900), at(200)), Some(1));
        assert!(logged_in_again.is_revoked());
        revocations.forget(at(1000 + 59));
        assert_eq!(revocations.count(), 1, "it lasts as long as the longer");
        revocations.forget(at(1000 + 60));
        assert_eq!(revocations.count(), 0);
    }

    #[tokio::test]
    async fn what_has_ended_by_itself_is_forgotten_and_what_ended_before_is_never_known() {
        let revocations = informed();
        for number in 0..100 {
            let revocation = Revocation {
                subject: token(&number.to_string()),
                revoked_at: at(100),
                expires_at: at(200 + number),
            };
            revocations.apply(revocation, at(100));
        }
        assert_eq!(revocations.count(), 100);
        revocations.forget(at(200 + 49 + 60));
        assert_eq!(revocations.count(), 50);
        let held = |id: &str| grant("", "", id, None);
        assert_eq!(revocations.check(&held("49")).await, Ok(()));
        assert_eq!(revocations.check(&held("50")).await, Err(Refused::Revoked));
        assert_eq!(
            revocations.apply(revocation(token("x")), at(200) + HOUR),
            None
        );
        assert_eq!(revocations.count(), 50);
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_that_has_just_started_lets_tokens_wait_and_then_refuses_them_for_now() {
        let revocations = Revocations::awaited();
        let asked = tokio::time::Instant::now();
        let good = grant("", "42", "", Some(50));
        assert_eq!(revocations.check(&good).await, Err(Refused::Uninformed));
        assert_eq!(asked.elapsed(), PATIENCE);
        // What it knows already it need not wait for.
        revocations.apply(revocation(token("j1")), at(100));
        let revoked = grant("", "", "j1", None);
        assert_eq!(revocations.check(&revoked).await, Err(Refused::Revoked));
        assert_eq!(asked.elapsed(), PATIENCE);
        let believed = Grant::undivided(&[Permission::Read]);
        assert_eq!(revocations.check(&believed).await, Ok(()));
        // Both who was waiting and what was read meanwhile count.
        let late = grant("", "", "j2", None);
        let waiting = [revocations.clone(), revocations.clone()];
        let (good, late, ()) =
            tokio::join!(waiting[0].check(&good), waiting[1].check(&late), async {
                tokio::time::sleep(PATIENCE / 2).await;
                revocations.apply(revocation(token("j2")), at(100));
                revocations.inform();
            });
        assert_eq!((good, late), (Ok(()), Err(Refused::Revoked)));
        assert_eq!(asked.elapsed(), PATIENCE + PATIENCE / 2);
    }

    #[tokio::test]
    async fn where_no_tokens_are_checked_nothing_is_revoked_and_nothing_is_waited_for() {
        let revocations = Revocations::default();
        let anybody = grant("", "42", "j1", None);
        assert_eq!(revocations.check(&anybody).await, Ok(()));
        let open = watch(&revocations, &anybody);
        assert_eq!(revocations.apply(revocation(token("j1")), at(100)), None);
        assert!(!open.is_revoked());
        assert_eq!(revocations.count(), 0);
    }

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Alarm(AtomicUsize);

    impl Wake for Alarm {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn only_those_who_are_meant_are_woken_and_streams_that_ended_leave_nothing_behind() {
        let revocations = informed();
        let open: Vec<_> = (0..1000)
            .map(|number| {
                let alarm = Arc::new(Alarm::default());
                let holder = grant("", &(number / 2).to_string(), "j", Some(50));
                let watch = watch(&revocations, &holder);
                let waker = Waker::from(Arc::clone(&alarm));
                let polled = watch.poll_revoked(&mut Context::from_waker(&waker));
                assert!(polled.is_pending());
                (watch, alarm)
            })
            .collect();
        assert_eq!(
            revocations.apply(revocation(user("", "21")), at(100)),
            Some(2)
        );
        for (number, (watch, alarm)) in open.iter().enumerate() {
            let is_meant = number / 2 == 21;
            assert_eq!(watch.is_revoked(), is_meant, "{number}");
            let woken = alarm.0.load(Ordering::Relaxed);
            assert_eq!(woken, usize::from(is_meant), "{number}");
        }
        drop(open);
        let shared = revocations.shared.as_ref().unwrap();
        assert!(shared.lock().streams.is_empty());
    }

    #[tokio::test]
    async fn who_waits_for_a_revocation_is_told_when_it_comes() {
        let revocations = informed();
        let watch = watch(&revocations, &grant("", "42", "", None));
        let ((), ended) = tokio::join!(poll_fn(|context| watch.poll_revoked(context)), async {
            revocations.apply(revocation(user("", "42")), at(100))
        });
        assert_eq!(ended, Some(1));
    }
}
