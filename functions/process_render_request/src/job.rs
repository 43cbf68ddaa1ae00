//! The job of a render: what it is about, what is gathered as it is claimed, and what comes of it.

use std::{cell::Cell, time::Instant};

use serde::Deserialize;
use serde_json::{Value, json};
use shared::{
    ai::{Charge, Usage, models::Choice},
    jobs::Claimed,
    limits::{Amounts, Counted},
    objects::ObjectPath,
    store::{models::Model, renders::Render},
    worker,
};
use uuid::Uuid;

use crate::{
    outcome::{Failure, expected_brief, expected_pictures},
    state::State,
};

/// The agent that renders, as `agent_limits.agent` names it.
pub(crate) const AGENT: &str = "renderer";
/// What models are chosen for, as `model_roles.purpose` names it.
pub(crate) const BRIEF: &str = "render_brief";
/// See [`BRIEF`].
pub(crate) const PICTURE: &str = "render_picture";
/// How often a worker may begin one request.
pub(crate) const MAX_ATTEMPTS: i32 = 5;
/// The kill switch.
pub(crate) const SWITCH: &str = "renders.enabled";

/// What the job is about.
#[derive(Debug, Deserialize)]
pub(crate) struct Payload {
    pub(crate) request_id: Uuid,
}

/// A job that a worker holds.
pub(crate) type Held = worker::Held<Payload>;

/// What is gathered as the job is claimed.
pub(crate) struct Plan {
    pub(crate) render: Render,
    /// What the calls made now are paid from. A call that is made again gets a new one.
    pub(crate) reservation: Cell<Uuid>,
    /// What a call that is made again reserves. Less once the brief is paid for, and other with another model.
    pub(crate) amounts: Cell<Amounts>,
    pub(crate) template: String,
    pub(crate) template_version: i32,
    /// The models that may write the brief; there is one at least.
    pub(crate) briefs: Choice,
    /// The models that may make the pictures; there is one at least.
    pub(crate) pictures: Choice,
}

impl Plan {
    /// The model at this place among those for pictures.
    pub(crate) fn picture(&self, at: usize) -> Result<&Model, Failure> {
        self.pictures.models.get(at).ok_or_else(no_price)
    }

    /// Whether pictures of `model` cost less than those of the model that was named. One that is not among the choices has no price.
    pub(crate) fn is_cheaper(&self, model: &Model) -> Result<bool, Failure> {
        let cost = |model: &Model| Ok::<_, Failure>(price(&expected_pictures(model, 1), model)?.cost_micro_usd);
        let named = self.pictures.models.iter().find(|choice| choice.model == self.render.model);
        Ok(match named {
            Some(named) => cost(model)? < cost(named)?,
            None => false,
        })
    }

    /// What the render is expected to use with these two models.
    pub(crate) fn expected(&self, brief: &Model, picture: &Model) -> Result<Amounts, Failure> {
        expected(brief, picture, self.render.variants)
    }
}

/// What a render of so many variants is expected to use with these two models.
pub(crate) fn expected(brief: &Model, picture: &Model, variants: i16) -> Result<Amounts, Failure> {
    let (brief, pictures) =
        (price(&expected_brief(brief), brief)?, price(&expected_pictures(picture, variants), picture)?);
    Ok(Amounts {
        requests: i64::from(variants),
        tokens: brief.tokens + pictures.tokens,
        cost_micro_usd: brief.cost_micro_usd + pictures.cost_micro_usd,
    })
}

/// What is reserved for so much. The choice of models has seen that each has a price.
pub(crate) fn price(expected: &Usage, model: &Model) -> Result<Charge, Failure> {
    Charge::reserved(expected, &model.prices).map_err(|_| no_price())
}

/// Nothing that could be called has a price.
pub(crate) fn no_price() -> Failure {
    Failure::permanent("model_price_unknown", "There is no price for the model, so it was not called.")
}

/// A job in hand: who works on it, with what, and until when.
#[derive(Clone, Copy)]
pub(crate) struct InHand<'a> {
    pub(crate) state: &'a State,
    pub(crate) held: &'a Held,
    pub(crate) plan: &'a Plan,
    /// When the function is cut off.
    pub(crate) deadline: Instant,
}

/// What Claude made of the wishes.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Brief {
    pub(crate) prompt: String,
    pub(crate) negative: String,
    pub(crate) decision: String,
    /// The model that wrote it. Empty for the template's.
    #[serde(skip)]
    pub(crate) model: String,
}

/// A call to a model that was made and paid for.
pub(crate) struct Paid<T> {
    pub(crate) value: T,
    pub(crate) bill: Bill,
}

/// What a call is charged with, and what was reserved for it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bill {
    pub(crate) call_id: Uuid,
    pub(crate) charge: Charge,
    pub(crate) reserved: Charge,
}

/// A picture that is stored, and of which no row says so yet.
pub(crate) struct Made {
    pub(crate) id: Uuid,
    pub(crate) variant: i16,
    pub(crate) path: ObjectPath,
    pub(crate) mime: &'static str,
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) bytes: usize,
    pub(crate) sha256: [u8; 32],
    /// The share of the photo's long straight edges that it has too; `None` if the photo has hardly any.
    pub(crate) edges_kept: Option<f32>,
    /// Whether the model's Content Credentials were taken out.
    pub(crate) credentials_removed: bool,
    /// `None` for one that was made before.
    pub(crate) bill: Option<Bill>,
}

/// A render that is done, before anything of it is written down.
pub(crate) struct Finished {
    pub(crate) brief: Option<Paid<Brief>>,
    pub(crate) made: Vec<Made>,
    pub(crate) model: String,
    /// The rung of the ladder that served it, as in `render_results.served_by`.
    pub(crate) served_by: &'static str,
    /// The template of the prompt, as purpose and version.
    pub(crate) template: Option<String>,
    /// Why it was not the model that was asked for.
    pub(crate) instead: Option<&'static str>,
}

/// Whose limits a render counts against.
pub(crate) fn counted(job: &Claimed, render: &Render) -> Counted<'static> {
    Counted { agent: AGENT, user_id: job.created_by, project_id: Some(render.project_id) }
}

/// The wishes, as data for the model.
pub(crate) fn wishes(render: &Render) -> Value {
    json!({
        "style": render.style, "furnishings": render.furnishings, "lighting": render.lighting,
        "walls": render.walls, "flooring": render.flooring, "exterior": render.exterior,
    })
}
