//! How the cluster is measured.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::common::{SecretText, string_map, yes};
use crate::api::rules;

/// How the cluster is monitored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Observability {
    /// Metrics for Prometheus.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<MetricsSpec>,
}

/// Metrics for Prometheus.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MetricsSpec {
    /// Serve `sys/metrics` to Prometheus. Default false.
    #[serde(default)]
    pub enabled: bool,
    /// A `ServiceMonitor` for the Prometheus operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_monitor: Option<ServiceMonitorSpec>,
}

/// A `ServiceMonitor` for the Prometheus operator.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceMonitorSpec {
    /// Whether to create it. Default true.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// How often to scrape. Default `30s`.
    #[serde(default = "default_interval")]
    #[schemars(length(min = 2, max = 32))]
    #[x_kube(validation = rules::duration("serviceMonitor.interval"))]
    pub interval: String,
    /// How long a scrape may take. Default `10s`.
    #[serde(default = "default_scrape_timeout")]
    #[schemars(length(min = 2, max = 32))]
    #[x_kube(validation = rules::duration("serviceMonitor.scrapeTimeout"))]
    pub scrape_timeout: String,
    /// Put on the `ServiceMonitor`, for a Prometheus that chooses by labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "string_map::<64, 16384>")]
    pub labels: BTreeMap<String, String>,
}

fn default_interval() -> String {
    "30s".to_owned()
}

fn default_scrape_timeout() -> String {
    "10s".to_owned()
}

impl Default for ServiceMonitorSpec {
    fn default() -> Self {
        Self {
            enabled: true,
            interval: default_interval(),
            scrape_timeout: default_scrape_timeout(),
            labels: BTreeMap::new(),
        }
    }
}

/// OpenBao's telemetry block. What is left out keeps OpenBao's default.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Telemetry {
    /// How often usage gauges are collected, for example `10m`; `none` turns them off.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(validation = rules::openbao_period("telemetry.usageGaugePeriod"))]
    pub usage_gauge_period: Option<String>,
    /// Labels a usage gauge may have.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub maximum_gauge_cardinality: Option<i64>,
    /// Leave the host name out of metric names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disable_hostname: Option<bool>,
    /// Put the host name into a label.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enable_hostname_label: Option<bool>,
    /// First part of every metric name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub metrics_prefix: Option<String>,
    /// Width of the buckets that lease expiries are counted in.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(validation = rules::openbao_period("telemetry.leaseMetricsEpsilon"))]
    pub lease_metrics_epsilon: Option<String>,
    /// How long metrics are kept for Prometheus, for example `30s`; 0 turns it off.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(validation = rules::openbao_duration("telemetry.prometheusRetentionTime"))]
    pub prometheus_retention_time: Option<String>,
    /// statsd server.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub statsd_address: Option<String>,
    /// statsite server.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub statsite_address: Option<String>,
    /// `DogStatsD` server.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub dog_statsd_address: Option<String>,
    /// Tags sent to `DogStatsD`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 256)))]
    pub dog_statsd_tags: Vec<String>,
    /// Circonus API token. Whoever may read this object can read it.
    #[serde(rename = "circonusAPIKey", skip_serializing_if = "Option::is_none")]
    pub circonus_api_key: Option<SecretText>,
    /// Circonus application name.
    #[serde(rename = "circonusAPIApp", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub circonus_api_app: Option<String>,
    /// Circonus API address.
    #[serde(rename = "circonusAPIURL", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub circonus_api_url: Option<String>,
    /// Circonus broker.
    #[serde(rename = "circonusBrokerID", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub circonus_broker_id: Option<String>,
    /// Tag by which a Circonus broker is chosen.
    #[serde(rename = "circonusBrokerSelectTag", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub circonus_broker_select_tag: Option<String>,
    /// Name of the Circonus check as shown.
    #[serde(rename = "circonusCheckDisplayName", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub circonus_check_display_name: Option<String>,
    /// Whether Circonus metrics are switched on again (`true` or `false`).
    #[serde(rename = "circonusCheckForceMetricActivation", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub circonus_check_force_metric_activation: Option<String>,
    /// Circonus check.
    #[serde(rename = "circonusCheckID", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub circonus_check_id: Option<String>,
    /// Tells instances apart in Circonus.
    #[serde(rename = "circonusCheckInstanceID", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub circonus_check_instance_id: Option<String>,
    /// Tag by which a Circonus check is found.
    #[serde(rename = "circonusCheckSearchTag", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub circonus_check_search_tag: Option<String>,
    /// Tags of a new Circonus check, comma separated.
    #[serde(rename = "circonusCheckTags", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub circonus_check_tags: Option<String>,
    /// How often metrics go to Circonus.
    #[serde(rename = "circonusSubmissionInterval", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = rules::openbao_duration("telemetry.circonusSubmissionInterval"))]
    pub circonus_submission_interval: Option<String>,
    /// Google Cloud project of the metrics.
    #[serde(rename = "stackdriverProjectID", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub stackdriver_project_id: Option<String>,
    /// Google Cloud location of the metrics.
    #[serde(rename = "stackdriverLocation", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub stackdriver_location: Option<String>,
    /// Namespace label of the metrics in Google Cloud.
    #[serde(rename = "stackdriverNamespace", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub stackdriver_namespace: Option<String>,
    /// Log what is sent to Google Cloud.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stackdriver_debug_logs: Option<bool>,
}
