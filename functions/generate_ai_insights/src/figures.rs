//! Figures as the database gives them, and the prompt that tells a model of them.

use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use shared::store::StoreError;

/// One figure.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Figure {
    /// As in `status.won.current`.
    pub(crate) id: String,
    /// What it counts.
    pub(crate) label: String,
    /// `count`, `percent`, `word`, or a currency.
    pub(crate) unit: String,
    /// The number.
    pub(crate) value: f64,
    /// As it is told.
    pub(crate) text: String,
}

/// A breakdown of the whole by one dimension.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Breakdown {
    pub(crate) id: String,
    pub(crate) labels: Vec<String>,
    pub(crate) points: Vec<Option<f64>>,
}

/// What `app.insight_figures` returns, as far as texts need it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Figures {
    pub(crate) table: String,
    pub(crate) period: String,
    pub(crate) period_start: chrono::DateTime<chrono::Utc>,
    pub(crate) figures: Vec<Figure>,
    pub(crate) series: Vec<Series>,
    pub(crate) breakdowns: Vec<Breakdown>,
}

/// A series of points.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Series {
    pub(crate) label: String,
}

impl Figures {
    /// What the database gave.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`] if it is not of this shape, which a migration would have to have changed.
    pub(crate) fn parse(figures: &Value) -> Result<Self, StoreError> {
        Self::deserialize(figures).map_err(|error| StoreError::Unreadable { what: "figures", error })
    }

    /// The figure of this id.
    pub(crate) fn find(&self, id: &str) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.id == id)
    }

    /// What the table's rows are called.
    pub(crate) fn noun(&self) -> &str {
        self.series.first().map_or("rows", |series| series.label.as_str())
    }

    /// Whether any figure is worth a word.
    pub(crate) fn tell_anything(&self) -> bool {
        self.figures.iter().any(|figure| figure.unit != "percent" && figure.value != 0.0)
    }

    /// What a model is told: aggregates with their ids, and no date, name or row.
    pub(crate) fn prompt(&self) -> String {
        let told: Vec<Value> = self
            .figures
            .iter()
            .map(|figure| json!({ "id": figure.id, "what": figure.label, "text": figure.text }))
            .collect();
        let figures = json!({ "table": self.table, "period": self.period, "figures": told });
        format!("Summarise these figures of the last whole {}.\n{figures}", self.period)
    }
}

/// SHA-256 of figures, which come with their keys in order.
pub(crate) fn digest(figures: &Value) -> [u8; 32] {
    Sha256::digest(figures.to_string()).into()
}
