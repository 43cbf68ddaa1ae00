//! Makes insights: figures as they are now, the template's text, and the analyst's job if there is anything to tell.

use chrono::{DateTime, Utc};
use shared::{
    db::Tx,
    store::{
        StoreError,
        insights::{self, Audience, Insight, NewInsight},
    },
};
use uuid::Uuid;

use crate::{
    figures::{self, Figures},
    text,
};

/// Why the template speaks while the analyst is still to.
const ON_ITS_WAY: &str = "text_on_its_way";
/// Why it always will: there is no figure worth a word.
const NOTHING_TO_TELL: &str = "nothing_to_tell";

/// The insight of the figures as they are now for this audience: the one that is there, or one made now with the template's text and, if
/// there is anything to tell, the analyst's job. Whether it was made now.
///
/// Runs as the caller for what they see, and as the system for what everybody of the organisation's audience does.
pub(crate) async fn admit(
    tx: &mut Tx,
    org_id: Uuid,
    audience: &Audience,
    table: &str,
    period: &str,
    now: DateTime<Utc>,
) -> Result<(Insight, bool), StoreError> {
    let insights::Computed { figures: computed, seen_as } = insights::figures(tx, table, period, now).await?;
    let digest = figures::digest(&computed);
    if let Some(same) = insights::find_same(tx, org_id, audience, &digest).await? {
        insights::confirm(tx, same.id).await?;
        return Ok((same, false));
    }
    let parsed = Figures::parse(&computed)?;
    let id = Uuid::now_v7();
    let telling = parsed.tell_anything();
    let new = NewInsight {
        id,
        job_id: telling.then(Uuid::now_v7),
        org_id,
        audience,
        table_name: table,
        period,
        period_start: parsed.period_start,
        figures: &computed,
        seen_as: audience.user_id.and(seen_as.as_deref()),
        figures_digest: digest,
        text: &text::template(&parsed),
        instead_because: if telling { ON_ITS_WAY } else { NOTHING_TO_TELL },
    };
    if insights::insert(tx, &new).await? {
        if telling {
            insights::admit_job(tx, id).await?;
        }
        return Ok((insights::get(tx, id).await?, true));
    }
    // Somebody of the same audience asked at this moment, and theirs is there now.
    let same = insights::find_same(tx, org_id, audience, &digest).await?;
    same.map(|same| (same, false)).ok_or(StoreError::NotFound { entity: "insight" })
}
