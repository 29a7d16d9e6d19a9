//! Grafana's dashboard as far as a test must understand it: panels, where they are, and what they ask.

use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
pub(super) struct Dashboard {
    pub(super) panels: Vec<Panel>,
    annotations: List<Annotation>,
    templating: List<Variable>,
}

#[derive(Deserialize)]
struct List<T> {
    list: Vec<T>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Panel {
    pub(super) id: u32,
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) title: String,
    #[serde(default)]
    pub(super) description: String,
    pub(super) grid_pos: Place,
    #[serde(default)]
    field_config: Value,
    #[serde(default)]
    options: Value,
    #[serde(default)]
    pub(super) targets: Vec<Target>,
}

/// Where a panel is, on a grid that is 24 wide.
#[derive(Deserialize)]
pub(super) struct Place {
    x: u32,
    y: u32,
    w: u32,
    h: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Target {
    ref_id: String,
    pub(super) datasource: Datasource,
    pub(super) expr: String,
    pub(super) legend_format: String,
}

#[derive(Deserialize)]
struct Annotation {
    name: String,
    target: Expression,
}

#[derive(Deserialize)]
struct Expression {
    expr: String,
}

#[derive(Deserialize)]
pub(super) struct Datasource {
    pub(super) uid: String,
}

#[derive(Deserialize)]
struct Variable {
    name: String,
    #[serde(default)]
    definition: Option<String>,
}

/// Something that Grafana asks Prometheus.
pub(super) struct Query {
    /// The panel's title, or what else asks.
    pub(super) panel: String,
    pub(super) id: String,
    expression: String,
}

impl Dashboard {
    pub(super) fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).expect("the dashboard");
        serde_json::from_str(&text).expect("a dashboard")
    }

    /// The titles of the rows.
    pub(super) fn rows(&self) -> impl Iterator<Item = &str> {
        let rows = self.panels.iter().filter(|panel| panel.kind == "row");
        rows.map(|panel| panel.title.as_str())
    }

    /// All that it asks: for its panels, its annotations, and the values of its variables.
    pub(super) fn queries(&self) -> Vec<Query> {
        let mut queries = Vec::new();
        let mut ask = |panel: &str, id: &str, expression: &str| {
            queries.push(Query {
                panel: panel.to_owned(),
                id: id.to_owned(),
                expression: expression.to_owned(),
            });
        };
        for panel in &self.panels {
            for target in &panel.targets {
                ask(&panel.title, &target.ref_id, &target.expr);
            }
        }
        for annotation in &self.annotations.list {
            ask("annotations", &annotation.name, &annotation.target.expr);
        }
        for variable in &self.templating.list {
            let Some(definition) = &variable.definition else {
                continue;
            };
            // Grafana's own function: the values of a label in some series.
            let inner = definition
                .strip_prefix("label_values(")
                .and_then(|rest| rest.strip_suffix(')'));
            let (series, label) = inner
                .and_then(|inner| inner.rsplit_once(", "))
                .expect("two arguments");
            ask(
                "variables",
                &variable.name,
                &format!("group by ({label}) ({series})"),
            );
        }
        assert!(queries.len() > 50, "only {} queries", queries.len());
        queries
    }
}

impl Panel {
    /// The unit of what it shows.
    pub(super) fn unit(&self) -> &str {
        let of_fields = &self.field_config["defaults"]["unit"];
        let of_axis = &self.options["yAxis"]["unit"];
        of_fields.as_str().or(of_axis.as_str()).unwrap_or_default()
    }
}

impl Place {
    /// The fields of the grid that it takes.
    pub(super) fn fields(&self) -> Vec<(u32, u32)> {
        assert!(self.x + self.w <= 24, "beyond the edge");
        let columns = self.x..self.x + self.w;
        columns
            .flat_map(|x| (self.y..self.y + self.h).map(move |y| (x, y)))
            .collect()
    }
}

impl Query {
    /// As Grafana sends it, when these are chosen.
    pub(super) fn substituted(&self, rate_interval: &str, job: &str, instance: &str) -> String {
        let expression = self
            .expression
            .replace("$__rate_interval", rate_interval)
            .replace("$job", job)
            .replace("$instance", instance);
        assert!(
            !expression.contains('$'),
            "a variable is left: {expression}"
        );
        expression
    }
}
