//! What goes wrong at Fortnox, and with which calls. What can be written as a canned answer can be scripted as well.

use std::{collections::HashMap, io, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::Method,
    response::{IntoResponse, Response},
};
use futures::stream;

use super::{Fortnox, lock, pages, refusal::Refusal};
use crate::{Calls, Gate, plan::Plan};

/// Calls that a fault is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Call {
    /// `POST /oauth-v1/token`.
    Token,
    /// `POST /3/vouchers`.
    Voucher,
    /// Everything under `/3/`.
    Rest,
}

/// What goes wrong.
#[derive(Debug, Clone)]
pub enum Fault {
    /// It is done, and the connection is closed before a byte of the answer.
    Lost,
    /// It is done, and answered once the gate is opened.
    Held(Gate),
    /// It is done, and answered with 500.
    Failed,
    /// It is not done: 500 with code 1000003.
    SystemException,
    /// It is not done: 429.
    RateLimited,
    /// It is not done: 502 with a page in HTML.
    BadGateway,
    /// It is done this much later.
    Slow(Duration),
}

/// The faults that are arranged.
pub(super) type Faults = HashMap<Call, Plan<Fault>>;

impl Fortnox {
    /// Makes these calls go wrong.
    pub fn arrange(&self, call: Call, fault: Fault, calls: Calls) {
        lock(&self.faults).entry(call).or_default().arrange(fault, calls);
    }

    /// Nothing goes wrong any more.
    pub fn clear_faults(&self) {
        lock(&self.faults).values_mut().for_each(Plan::clear);
    }

    /// How many calls of this kind met a fault.
    #[must_use]
    pub fn faults_met(&self, call: Call) -> usize {
        lock(&self.faults).get(&call).map_or(0, Plan::met)
    }

    /// The next token request is carried out, tokens rotated and all, and its answer never arrives.
    pub fn lose_next_token_answer(&self) {
        self.arrange(Call::Token, Fault::Lost, Calls::Next(1));
    }

    /// The next voucher is stored, and its answer never arrives.
    pub fn lose_next_voucher_answer(&self) {
        self.arrange(Call::Voucher, Fault::Lost, Calls::Next(1));
    }

    /// Waits until the answers to so many calls were held back, what they asked for being done.
    pub async fn held_times(&self, times: usize) {
        let mut held = self.held.subscribe();
        // The sender lives as long as we do.
        let _ = held.wait_for(|held| *held >= times).await;
    }

    /// Counts a call. The fault of the narrower kind goes first.
    pub(super) fn meet(&self, method: &Method, path: &str) -> Option<Fault> {
        let kinds: &[Call] = match path.trim_end_matches('/') {
            "/oauth-v1/token" => &[Call::Token],
            "/3/vouchers" if method == Method::POST => &[Call::Voucher, Call::Rest],
            path if path.starts_with("/3/") => &[Call::Rest],
            _ => &[],
        };
        let mut faults = lock(&self.faults);
        let met: Vec<_> = kinds.iter().map(|kind| faults.get_mut(kind).and_then(Plan::meet)).collect();
        met.into_iter().flatten().next()
    }
}

impl Fault {
    /// The answer instead of doing it, if it is not done.
    pub(super) fn instead(&self) -> Option<Response> {
        match self {
            Self::Lost | Self::Held(_) | Self::Failed | Self::Slow(_) => None,
            Self::SystemException => Some(Refusal::system().into_response()),
            Self::RateLimited => Some(Refusal::too_many().into_response()),
            Self::BadGateway => Some(pages::bad_gateway()),
        }
    }

    /// What becomes of the answer.
    pub(super) fn spoil(&self, answer: Response) -> Response {
        match self {
            Self::Failed => Refusal::system().into_response(),
            Self::Lost => {
                let (mut parts, _) = answer.into_parts();
                parts.headers.clear();
                // A body that fails at once closes the connection before the head is written.
                let lost = stream::iter([Err::<Bytes, _>(io::Error::other("lost"))]);
                Response::from_parts(parts, Body::from_stream(lost))
            }
            _ => answer,
        }
    }
}
