//! What is made of many values: how many, the least, the largest, their mean, the last one.

use serde_json::{Number, Value as Json};

/// What an aggregate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// How many messages.
    Count,
    /// The least number.
    Min,
    /// The largest number.
    Max,
    /// The mean of numbers.
    Mean,
    /// The last value.
    Last,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Count, Self::Min, Self::Max, Self::Mean, Self::Last];

    /// As it is called in expressions.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Min => "min",
            Self::Max => "max",
            Self::Mean => "mean",
            Self::Last => "last",
        }
    }

    /// The one of this name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Whether only numbers can be given to it.
    #[must_use]
    pub fn is_of_numbers(self) -> bool {
        matches!(self, Self::Min | Self::Max | Self::Mean)
    }
}

/// An aggregate of the values so far.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Aggregate {
    kind: Kind,
    /// The value as it is: the least, the largest, the last; the mean's is made at the end.
    value: Json,
    count: u64,
    /// Kept so rather than as a sum, which would lose what is small beside it.
    mean: f64,
}

impl Aggregate {
    pub(super) fn new(kind: Kind) -> Self {
        Self { kind, value: Json::Null, count: 0, mean: 0.0 }
    }

    /// One more.
    pub(super) fn add(&mut self, value: Json) {
        self.count += 1;
        match self.kind {
            Kind::Count => {}
            Kind::Last => self.value = value,
            Kind::Min if self.count == 1 || is_less(&value, &self.value) => self.value = value,
            Kind::Max if self.count == 1 || is_less(&self.value, &value) => self.value = value,
            Kind::Min | Kind::Max => {}
            Kind::Mean => self.mean += (float(&value) - self.mean) / count(self.count),
        }
    }

    /// What has come of them.
    pub(super) fn end(self) -> Json {
        match self.kind {
            Kind::Count => Json::from(self.count),
            Kind::Min | Kind::Max | Kind::Last => self.value,
            Kind::Mean => Number::from_f64(self.mean).map_or(Json::Null, Json::Number),
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "so many messages are in no window")]
fn count(of: u64) -> f64 {
    of as f64
}

fn float(value: &Json) -> f64 {
    value.as_f64().unwrap_or_default()
}

/// Whole numbers as such: what is large has neighbours that are the same as floats.
fn is_less(one: &Json, other: &Json) -> bool {
    match (one.as_i64(), other.as_i64()) {
        (Some(one), Some(other)) => one < other,
        _ => float(one) < float(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(kind: Kind, values: &[Json]) -> Json {
        let mut aggregate = Aggregate::new(kind);
        values.iter().for_each(|value| aggregate.add(value.clone()));
        aggregate.end()
    }

    #[test]
    fn each_is_what_its_name_says() {
        let values = [json!(2), json!(-1.5), json!(7), json!(3)];
        for (kind, is) in [
            (Kind::Count, json!(4)),
            (Kind::Min, json!(-1.5)),
            (Kind::Max, json!(7)),
            (Kind::Mean, json!(2.625)),
            (Kind::Last, json!(3)),
        ] {
            assert_eq!(of(kind, &values), is, "{kind:?}");
        }
    }

    #[test]
    fn large_whole_numbers_are_told_apart() {
        let (less, more) = (json!(9_007_199_254_740_992_i64), json!(9_007_199_254_740_993_i64));
        assert_eq!(of(Kind::Max, &[more.clone(), less.clone()]), more);
        assert_eq!(of(Kind::Min, &[more, less.clone()]), less);
    }

    #[test]
    fn a_mean_is_not_lost_in_a_sum() {
        assert_eq!(of(Kind::Mean, &[json!(1.7e308), json!(1.7e308)]), json!(1.7e308));
    }
}
