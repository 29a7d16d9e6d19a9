//! What a connection listens to: the half of a subscription that rights decide. `auth` makes it, the hub serves it.

use super::audience::{Audience, Identifier, Recipient};

/// The events a connection is sent, before its own filters narrow them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The union of these audiences, each named once.
    Audiences(Vec<Audience>),
    /// Every event there is, of one tenant or of all.
    Everything {
        /// Only inside this tenant; `None` for all, those without one included.
        tenant: Option<Identifier>,
        /// Whether broadcasts come along.
        broadcast: bool,
    },
}

impl Scope {
    /// Whether an event for `audience` belongs to this scope.
    #[must_use]
    pub fn covers(&self, audience: &Audience) -> bool {
        match self {
            Self::Audiences(audiences) => audiences.contains(audience),
            Self::Everything { tenant, broadcast } => {
                tenant
                    .as_ref()
                    .is_none_or(|tenant| audience.tenant.as_ref() == Some(tenant))
                    && (*broadcast || audience.recipient != Recipient::Broadcast)
            }
        }
    }

    /// Whether it is every event there is.
    #[must_use]
    pub fn is_unfenced(&self) -> bool {
        matches!(
            self,
            Self::Everything {
                tenant: None,
                broadcast: true
            }
        )
    }
}
