//! Who acts in tests: the people of `infra/postgres/seed.sql`.

use sandbox::auth::User;
use serde_json::{Value, json};
use uuid::Uuid;

/// Atelier Nord.
pub const NORD: Uuid = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001);
/// Brick & Beam.
pub const BRICK: Uuid = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0002);
/// A project of Atelier Nord that its client sees.
pub const LAKESIDE: Uuid = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_00a1);
/// A project of Atelier Nord that no client sees.
pub const LOFT: Uuid = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_00a2);
/// A project of Brick & Beam.
pub const HARBOUR: Uuid = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_00b1);

/// Somebody in an organisation.
#[derive(Debug, Clone, Copy)]
pub struct Person {
    /// `auth.users.id`.
    pub id: Uuid,
    /// Their address.
    pub email: &'static str,
    /// Where they work.
    pub org: Uuid,
}

/// An agent.
#[derive(Debug, Clone, Copy)]
pub struct Agent {
    /// `agents.id`.
    pub id: Uuid,
    /// Whom it works for.
    pub org: Uuid,
}

impl Person {
    const fn nord(number: u128, email: &'static str) -> Self {
        Self { id: Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0000 + number), email, org: NORD }
    }

    const fn brick(number: u128, email: &'static str) -> Self {
        Self { org: BRICK, ..Self::nord(number, email) }
    }

    /// As the sandbox signs them in.
    #[must_use]
    pub fn user(&self) -> User {
        User { id: self.id, email: self.email.to_owned() }
    }

    /// The claims that matter to the database.
    #[must_use]
    pub fn claims(&self) -> Value {
        json!({ "sub": self.id, "org_id": self.org, "role": "authenticated" })
    }
}

/// Owner of Atelier Nord.
pub const OLGA: Person = Person::nord(0x101, "olga@atelier-nord.example");
/// Admin of Atelier Nord.
pub const ADAM: Person = Person::nord(0x102, "adam@atelier-nord.example");
/// Designer of Atelier Nord.
pub const DORA: Person = Person::nord(0x103, "dora@atelier-nord.example");
/// Sales of Atelier Nord.
pub const SVEN: Person = Person::nord(0x104, "sven@atelier-nord.example");
/// Consultant of both organisations, assigned to one client of Atelier Nord.
pub const CLEO: Person = Person::nord(0x105, "cleo@consultants.example");
/// A client's own person, at Atelier Nord.
pub const UMA: Person = Person::nord(0x106, "uma@lakeside.example");
/// Consultant of Atelier Nord who manages all of its clients.
pub const MAX: Person = Person::nord(0x107, "max@consultants.example");
/// Owner of Brick & Beam.
pub const OSCAR: Person = Person::brick(0x201, "oscar@brick-and-beam.example");
/// Designer of Brick & Beam.
pub const DAN: Person = Person::brick(0x203, "dan@brick-and-beam.example");
/// A client's own person, at Brick & Beam.
pub const ULF: Person = Person::brick(0x206, "ulf@harbour.example");
/// The client of Atelier Nord.
pub const LIVING: Uuid = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0c01);
/// The client of Brick & Beam.
pub const HOTELS: Uuid = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0c02);
/// The agent of Atelier Nord.
pub const RENATA: Agent = Agent { id: Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0a01), org: NORD };
/// The agent of Brick & Beam.
pub const RUFUS: Agent = Agent { id: Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0a02), org: BRICK };
