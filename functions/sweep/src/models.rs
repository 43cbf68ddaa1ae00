//! Models whose end is near: each is reported once to the operator, in time to set another.

use chrono::Utc;
use shared::{
    store::{StoreError, models},
    telemetry::{Unit, metric},
};

use crate::state::State;

/// Reports the models in use that end within thirty days and were not reported yet. How many.
pub(crate) async fn notice(state: &State) -> Result<usize, StoreError> {
    let told = state.db.directory(async |tx| {
        let ending = models::notice_ending(tx).await?;
        // Before the commit: if it fails they are told of once more, and never not at all.
        for model in &ending {
            tracing::warn!(provider = model.provider, model = model.model, retires_at = %model.retires_at, "a model that is in use ends within thirty days");
            metric(Utc::now(), "ModelsEnding", Unit::Count, 1.0, &[]);
        }
        Ok::<_, StoreError>(ending.len())
    });
    told.await
}
