//! What one may see and do. Deny by default: what a grant does not name is not granted, and every door asks here.

use std::collections::{BTreeSet, HashSet};
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use crate::event::audience::{Audience, Identifier, Recipient};
use crate::event::scope::Scope;
use crate::event::topic::TopicPattern;

/// What one request may see and do.
#[derive(Clone, Debug)]
pub struct Grant {
    reach: Reach,
    permissions: Vec<Permission>,
    validity: Validity,
}

/// For how long a grant holds, and by what it can be revoked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Validity {
    /// When it ends, if it does. A stream ends with it.
    pub expires_at: Option<SystemTime>,
    /// When its token was issued (RFC 7519 §4.1.6), if that says so.
    pub issued_at: Option<SystemTime>,
    /// What tells its token from all others (RFC 7519 §4.1.7), if it bears an id.
    pub token_id: Option<String>,
    /// By how much its issuer's clock may differ from ours: for so long after its end a stream goes on.
    pub leeway: Duration,
}

/// Which audiences a grant opens.
#[derive(Clone, Debug)]
pub enum Reach {
    /// Nobody is told apart: what is asked for is believed, the tenant too.
    Undivided,
    /// Somebody in particular.
    Somebody {
        /// The tenant that fences everything, if there are tenants.
        tenant: Option<Identifier>,
        /// Whose own events.
        user: Option<Identifier>,
        /// Whose teams' events.
        teams: BTreeSet<Identifier>,
        /// Which channels, by pattern.
        channels: Vec<TopicPattern>,
    },
}

/// Something that a grant may allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// `events:read`: hold a stream.
    Read,
    /// `events:publish`: `POST /publish`.
    Publish,
    /// `events:admin`: see everything (of the own tenant, where there is one).
    Admin,
}

impl Permission {
    /// Every permission there is.
    pub const ALL: [Self; 3] = [Self::Read, Self::Publish, Self::Admin];

    /// As it stands in a token.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "events:read",
            Self::Publish => "events:publish",
            Self::Admin => "events:admin",
        }
    }
}

impl FromStr for Permission {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = Self::ALL.into_iter().find(|one| one.as_str() == text);
        named.ok_or_else(|| "write events:read, events:publish or events:admin".to_owned())
    }
}

/// What a client asks to be sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// `user_id`, any number.
    pub users: Vec<Identifier>,
    /// `team_id`, any number.
    pub teams: Vec<Identifier>,
    /// `channel`, any number.
    pub channels: Vec<Identifier>,
    /// `tenant_id`.
    pub tenant: Option<Identifier>,
    /// `all`: `None` where it was not said.
    pub all: Option<bool>,
    /// `broadcast`.
    pub broadcast: bool,
}

/// What a client asked for and may not have. The text is for the client; it names what it asked for, nothing else.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Forbidden {
    /// An audience that the grant does not open.
    #[error("your token does not grant {0}")]
    Audience(Recipient),
    /// Another tenant, or a tenant where there are none.
    #[error("your token does not grant tenant {0}")]
    Tenant(Identifier),
    /// A permission that the grant does not hold.
    #[error("your token does not grant {}", .0.as_str())]
    Permission(Permission),
    /// Nothing was asked for and nothing is granted.
    #[error("nothing was asked for, or nothing is granted, so there is nothing to stream")]
    Nothing,
}

impl Grant {
    /// A grant for where nobody is told apart.
    #[must_use]
    pub fn undivided(permissions: &[Permission]) -> Self {
        Self {
            reach: Reach::Undivided,
            permissions: permissions.to_vec(),
            validity: Validity::default(),
        }
    }

    /// A grant for somebody in particular, for as long as it is valid.
    #[must_use]
    pub fn new(reach: Reach, permissions: Vec<Permission>, validity: Validity) -> Self {
        Self {
            reach,
            permissions,
            validity,
        }
    }

    /// For how long it holds, and by what it can be revoked.
    #[must_use]
    pub fn validity(&self) -> &Validity {
        &self.validity
    }

    /// Whether nobody is told apart by it.
    pub(super) fn is_undivided(&self) -> bool {
        matches!(self.reach, Reach::Undivided)
    }

    /// Who holds it, if that is known: what limits per user count by.
    #[must_use]
    pub fn user(&self) -> Option<&Identifier> {
        match &self.reach {
            Reach::Undivided => None,
            Reach::Somebody { user, .. } => user.as_ref(),
        }
    }

    /// The tenant it is fenced by, if there is one.
    #[must_use]
    pub fn tenant(&self) -> Option<&Identifier> {
        match &self.reach {
            Reach::Undivided => None,
            Reach::Somebody { tenant, .. } => tenant.as_ref(),
        }
    }

    /// Whether it allows `permission`.
    ///
    /// # Errors
    /// [`Forbidden::Permission`] when it does not.
    pub fn require(&self, permission: Permission) -> Result<(), Forbidden> {
        if self.permissions.contains(&permission) {
            Ok(())
        } else {
            Err(Forbidden::Permission(permission))
        }
    }

    /// The tenant that an event stays inside which is published by this grant and asks for the tenant `asked`. Somebody's
    /// is their own, whatever is asked for.
    ///
    /// # Errors
    /// [`Forbidden::Tenant`] when another one is asked for.
    pub fn publishes_in(&self, asked: Option<Identifier>) -> Result<Option<Identifier>, Forbidden> {
        match (&self.reach, asked) {
            (Reach::Undivided, asked) => Ok(asked),
            (Reach::Somebody { tenant, .. }, Some(asked)) if tenant.as_ref() != Some(&asked) => {
                Err(Forbidden::Tenant(asked))
            }
            (Reach::Somebody { tenant, .. }, _) => Ok(tenant.clone()),
        }
    }

    /// What a client that asks for `wanted` is to be sent.
    ///
    /// # Errors
    /// [`Forbidden`] when it asks for anything that this grant does not open: nothing is served in part.
    pub fn scope(&self, wanted: &Wanted) -> Result<Scope, Forbidden> {
        self.require(Permission::Read)?;
        match &self.reach {
            Reach::Undivided => undivided(wanted),
            Reach::Somebody {
                tenant,
                user,
                teams,
                channels,
            } => {
                if let Some(other) = wanted
                    .tenant
                    .as_ref()
                    .filter(|asked| tenant.as_ref() != Some(*asked))
                {
                    return Err(Forbidden::Tenant(other.clone()));
                }
                if wanted.all == Some(true) {
                    self.require(Permission::Admin)?;
                    return Ok(Scope::Everything {
                        tenant: tenant.clone(),
                        broadcast: wanted.broadcast,
                    });
                }
                let mut recipients = wanted.recipients();
                for recipient in &recipients {
                    let granted = match recipient {
                        Recipient::User(asked) => user.as_ref() == Some(asked),
                        Recipient::Team(asked) => teams.contains(asked),
                        Recipient::Channel(asked) => channels
                            .iter()
                            .any(|pattern| pattern.matches(asked.as_str())),
                        Recipient::Broadcast => true,
                    };
                    if !granted {
                        return Err(Forbidden::Audience(recipient.clone()));
                    }
                }
                if recipients.is_empty() {
                    recipients.extend(user.iter().cloned().map(Recipient::User));
                    recipients.extend(teams.iter().cloned().map(Recipient::Team));
                }
                audiences(tenant.as_ref(), recipients, wanted.broadcast)
            }
        }
    }
}

impl Wanted {
    /// Each recipient once, in the order of asking.
    fn recipients(&self) -> Vec<Recipient> {
        let users = self.users.iter().cloned().map(Recipient::User);
        let channels = self.channels.iter().cloned().map(Recipient::Channel);
        let teams = self.teams.iter().cloned().map(Recipient::Team);
        let mut seen = HashSet::new();
        users
            .chain(channels)
            .chain(teams)
            .filter(|recipient| seen.insert(recipient.clone()))
            .collect()
    }
}

/// Where nobody is told apart, what is asked for is granted, and everything is the default.
fn undivided(wanted: &Wanted) -> Result<Scope, Forbidden> {
    let recipients = wanted.recipients();
    if wanted.all.unwrap_or(recipients.is_empty()) {
        return Ok(Scope::Everything {
            tenant: wanted.tenant.clone(),
            broadcast: wanted.broadcast,
        });
    }
    audiences(wanted.tenant.as_ref(), recipients, wanted.broadcast)
}

/// All of these recipients, inside the tenant.
fn audiences(
    tenant: Option<&Identifier>,
    recipients: Vec<Recipient>,
    broadcast: bool,
) -> Result<Scope, Forbidden> {
    let audience = |recipient| Audience {
        tenant: tenant.cloned(),
        recipient,
    };
    let recipients = recipients
        .into_iter()
        .chain(broadcast.then_some(Recipient::Broadcast));
    let audiences: Vec<Audience> = recipients.map(audience).collect();
    if audiences.is_empty() {
        Err(Forbidden::Nothing)
    } else {
        Ok(Scope::Audiences(audiences))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> Identifier {
        text.parse().unwrap()
    }

    /// User 42 of tenant acme, in team 7, with the channels `news.*`.
    fn grant(permissions: &[Permission]) -> Grant {
        let reach = Reach::Somebody {
            tenant: Some(name("acme")),
            user: Some(name("42")),
            teams: BTreeSet::from([name("7")]),
            channels: vec!["news.*".parse().unwrap()],
        };
        Grant::new(reach, permissions.to_vec(), Validity::default())
    }

    fn within_acme(recipients: &[Recipient]) -> Scope {
        let audience = |recipient: &Recipient| Audience {
            tenant: Some(name("acme")),
            recipient: recipient.clone(),
        };
        Scope::Audiences(recipients.iter().map(audience).collect())
    }

    fn wanted() -> Wanted {
        Wanted {
            broadcast: true,
            ..Wanted::default()
        }
    }

    #[test]
    fn nothing_asked_for_is_what_is_granted_inside_the_tenant() {
        let expected = within_acme(&[
            Recipient::User(name("42")),
            Recipient::Team(name("7")),
            Recipient::Broadcast,
        ]);
        assert_eq!(grant(&[Permission::Read]).scope(&wanted()), Ok(expected));
    }

    #[test]
    fn what_is_asked_for_and_granted_is_all_that_is_sent() {
        let asked = Wanted {
            teams: vec![name("7"), name("7")],
            channels: vec![name("news.today")],
            broadcast: false,
            ..Wanted::default()
        };
        let expected = within_acme(&[
            Recipient::Channel(name("news.today")),
            Recipient::Team(name("7")),
        ]);
        assert_eq!(grant(&[Permission::Read]).scope(&asked), Ok(expected));
    }

    #[test]
    fn what_is_not_granted_refuses_the_whole_request() {
        let read = [Permission::Read];
        let cases: [(&[Permission], Wanted, Forbidden); 8] = [
            (&[], wanted(), Forbidden::Permission(Permission::Read)),
            (
                &read,
                Wanted {
                    teams: vec![name("7"), name("8")],
                    ..wanted()
                },
                Forbidden::Audience(Recipient::Team(name("8"))),
            ),
            (
                &read,
                Wanted {
                    users: vec![name("43")],
                    ..wanted()
                },
                Forbidden::Audience(Recipient::User(name("43"))),
            ),
            (
                &read,
                Wanted {
                    channels: vec![name("news")],
                    ..wanted()
                },
                Forbidden::Audience(Recipient::Channel(name("news"))),
            ),
            (
                &read,
                Wanted {
                    channels: vec![name("news.today.late")],
                    ..wanted()
                },
                Forbidden::Audience(Recipient::Channel(name("news.today.late"))),
            ),
            (
                &read,
                Wanted {
                    tenant: Some(name("other")),
                    ..wanted()
                },
                Forbidden::Tenant(name("other")),
            ),
            (
                &read,
                Wanted {
                    all: Some(true),
                    ..wanted()
                },
                Forbidden::Permission(Permission::Admin),
            ),
            (
                &Permission::ALL,
                Wanted {
                    tenant: Some(name("other")),
                    all: Some(true),
                    ..wanted()
                },
                Forbidden::Tenant(name("other")),
            ),
        ];
        for (permissions, asked, expected) in cases {
            assert_eq!(grant(permissions).scope(&asked), Err(expected), "{asked:?}");
        }
    }

    #[test]
    fn an_admin_sees_everything_of_its_tenant_and_no_other() {
        let asked = Wanted {
            all: Some(true),
            ..wanted()
        };
        let expected = Scope::Everything {
            tenant: Some(name("acme")),
            broadcast: true,
        };
        assert_eq!(grant(&Permission::ALL).scope(&asked), Ok(expected));
    }

    #[test]
    fn where_nobody_is_told_apart_what_is_asked_for_is_believed() {
        let grant = Grant::undivided(&[Permission::Read]);
        let everything = Scope::Everything {
            tenant: None,
            broadcast: true,
        };
        assert_eq!(grant.scope(&wanted()), Ok(everything));
        let of_acme = Wanted {
            tenant: Some(name("acme")),
            teams: vec![name("8")],
            ..wanted()
        };
        let expected = within_acme(&[Recipient::Team(name("8")), Recipient::Broadcast]);
        assert_eq!(grant.scope(&of_acme), Ok(expected));
    }

    #[test]
    fn a_stream_that_could_never_send_anything_is_refused() {
        let nothing = Wanted {
            all: Some(false),
            ..Wanted::default()
        };
        let grant = Grant::undivided(&[Permission::Read]);
        assert_eq!(grant.scope(&nothing), Err(Forbidden::Nothing));
    }

    #[test]
    fn what_somebody_publishes_stays_in_their_own_tenant() {
        let acme = || Some(name("acme"));
        let of_acme = grant(&Permission::ALL);
        assert_eq!(of_acme.publishes_in(None), Ok(acme()));
        assert_eq!(of_acme.publishes_in(acme()), Ok(acme()));
        let other = Some(name("other"));
        assert_eq!(
            of_acme.publishes_in(other.clone()),
            Err(Forbidden::Tenant(name("other")))
        );
        let of_nobody = somebody(None, None, BTreeSet::new(), Vec::new(), true);
        assert_eq!(of_nobody.publishes_in(None), Ok(None));
        assert!(of_nobody.publishes_in(other.clone()).is_err());
        let undivided = Grant::undivided(&Permission::ALL);
        assert_eq!(undivided.publishes_in(other.clone()), Ok(other));
    }

    fn somebody(
        tenant: Option<Identifier>,
        user: Option<Identifier>,
        teams: BTreeSet<Identifier>,
        channels: Vec<TopicPattern>,
        admin: bool,
    ) -> Grant {
        let reach = Reach::Somebody {
            tenant,
            user,
            teams,
            channels,
        };
        let mut permissions = vec![Permission::Read];
        permissions.extend(admin.then_some(Permission::Admin));
        Grant::new(reach, permissions, Validity::default())
    }

    /// What a token says, as the specification below reads it.
    #[derive(Clone, Debug)]
    struct Token {
        tenant: Option<&'static str>,
        user: Option<&'static str>,
        teams: BTreeSet<&'static str>,
        channels: BTreeSet<&'static str>,
        admin: bool,
    }

    impl Token {
        fn grant(&self) -> Grant {
            let channels = self.channels.iter().map(|one| one.parse().unwrap());
            somebody(
                self.tenant.map(name),
                self.user.map(name),
                self.teams.iter().copied().map(name).collect(),
                channels.collect(),
                self.admin,
            )
        }

        /// Whether it opens an audience: the rule, naively. `None` is everybody.
        fn opens(&self, tenant: Option<&str>, kind: Option<&str>, asked: &str) -> bool {
            let words: Vec<&str> = asked.split('.').collect();
            self.tenant == tenant
                && match kind {
                    Some("user") => self.user == Some(asked),
                    Some("team") => self.teams.iter().any(|team| *team == asked),
                    Some(_) => self.channels.iter().any(|pattern| match *pattern {
                        "#" => true,
                        "*" => words.len() == 1,
                        "a.*" => words.len() == 2 && words[0] == "a",
                        literal => literal == asked,
                    }),
                    None => true,
                }
        }
    }

    const NAMES: &[&str] = &["a", "b", "a.b", "A", "a.b.a"];
    const TENANTS: &[Option<&str>] = &[None, Some("a"), Some("b")];

    fn names() -> impl Strategy<Value = BTreeSet<&'static str>> {
        proptest::collection::btree_set(proptest::sample::select(NAMES), 0..4)
    }

    fn tokens() -> impl Strategy<Value = Token> {
        let patterns = proptest::sample::select(&["#", "*", "a.*", "a", "a.b"][..]);
        (
            proptest::sample::select(TENANTS),
            proptest::option::of(proptest::sample::select(NAMES)),
            names(),
            proptest::collection::btree_set(patterns, 0..3),
            any::<bool>(),
        )
            .prop_map(|(tenant, user, teams, channels, admin)| Token {
                tenant,
                user,
                teams,
                channels,
                admin,
            })
    }

    fn wishes() -> impl Strategy<Value = Wanted> {
        let list = || names().prop_map(|names| names.into_iter().map(name).collect::<Vec<_>>());
        (
            list(),
            list(),
            list(),
            proptest::sample::select(TENANTS),
            proptest::option::of(any::<bool>()),
            any::<bool>(),
        )
            .prop_map(|(users, teams, channels, tenant, all, broadcast)| Wanted {
                users,
                teams,
                channels,
                tenant: tenant.map(name),
                all,
                broadcast,
            })
    }

    /// Every audience there is in this small world.
    fn world() -> Vec<Audience> {
        let kinds: [fn(Identifier) -> Recipient; 3] =
            [Recipient::User, Recipient::Team, Recipient::Channel];
        let mut all = Vec::new();
        for tenant in TENANTS {
            let named = kinds
                .iter()
                .flat_map(|kind| NAMES.iter().map(|text| kind(name(text))));
            all.extend(
                named
                    .chain([Recipient::Broadcast])
                    .map(|recipient| Audience {
                        tenant: tenant.map(name),
                        recipient,
                    }),
            );
        }
        all
    }

    fn opens(token: &Token, audience: &Audience) -> bool {
        let tenant = audience.tenant.as_ref().map(Identifier::as_str);
        match &audience.recipient {
            Recipient::User(user) => token.opens(tenant, Some("user"), user.as_str()),
            Recipient::Team(team) => token.opens(tenant, Some("team"), team.as_str()),
            Recipient::Channel(channel) => token.opens(tenant, Some("channel"), channel.as_str()),
            Recipient::Broadcast => token.opens(tenant, None, ""),
        }
    }

    proptest! {
        /// What is sent is what was asked for, and nothing that the naive rule does not open; and a request is refused
        /// exactly when it asks for something that is not opened.
        #[test]
        fn a_scope_is_what_the_specification_says(token in tokens(), asked in wishes()) {
            let everything = asked.all == Some(true);
            let nobody_named = asked.recipients().is_empty();
            let fenced = asked.tenant.as_ref().map(Identifier::as_str);
            let granted = (fenced.is_none() || fenced == token.tenant)
                && if everything {
                    token.admin
                } else {
                    asked.recipients().into_iter().all(|recipient| {
                        let tenant = token.tenant.map(name);
                        opens(&token, &Audience { tenant, recipient })
                    })
                };
            let wanted = |audience: &Audience| match &audience.recipient {
                Recipient::Broadcast => asked.broadcast,
                _ if everything => true,
                Recipient::User(user) => asked.users.contains(user) || nobody_named,
                Recipient::Team(team) => asked.teams.contains(team) || nobody_named,
                Recipient::Channel(channel) => asked.channels.contains(channel),
            };
            // All of an admin's tenant, and without a tenant all there is.
            let within = |audience: &Audience| {
                if everything {
                    token.tenant.is_none() || audience.tenant.as_ref().map(Identifier::as_str) == token.tenant
                } else {
                    opens(&token, audience)
                }
            };
            match token.grant().scope(&asked) {
                Ok(scope) => {
                    prop_assert!(granted);
                    for audience in world() {
                        let expected = within(&audience) && wanted(&audience);
                        prop_assert_eq!(scope.covers(&audience), expected, "{}", audience);
                    }
                }
                Err(Forbidden::Nothing) => {
                    prop_assert!(granted && !everything);
                    prop_assert!(!world().iter().any(|audience| within(audience) && wanted(audience)));
                }
                Err(_) => prop_assert!(!granted),
            }
        }

        /// Whatever is asked for, taking something out of a token never lets it see more.
        #[test]
        fn a_narrower_token_never_sees_more(token in tokens(), other in tokens(), asked in wishes()) {
            let narrower = Token {
                tenant: token.tenant,
                user: token.user.filter(|_| other.user.is_some()),
                teams: token.teams.intersection(&other.teams).copied().collect(),
                channels: token.channels.intersection(&other.channels).copied().collect(),
                admin: token.admin && other.admin,
            };
            if let Ok(narrow) = narrower.grant().scope(&asked) {
                let wide = token.grant().scope(&asked);
                prop_assert!(wide.is_ok(), "{:?}", wide);
                let wide = wide.unwrap();
                for audience in world() {
                    prop_assert!(!narrow.covers(&audience) || wide.covers(&audience), "{}", audience);
                }
            }
        }
    }
}
