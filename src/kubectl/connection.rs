//! The API server as the person's kubeconfig names it, and the objects of our kinds there.

use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::config::KubeConfigOptions;
use kube::core::NamespaceResourceScope;
use kube::{Client, Config, Resource, ResourceExt};
use serde::Serialize;

use super::Error;
use super::args::{Global, Output};
use crate::adapter::kubernetes::{Namespaced, client::timed};

/// Our kinds all look like this.
pub trait Kind: Namespaced + Serialize {
    /// As kubectl names it.
    const NAME: &'static str;
}

impl Kind for crate::api::OpenBaoCluster {
    const NAME: &'static str = "openbaocluster";
}
impl Kind for crate::api::OpenBaoOperation {
    const NAME: &'static str = "openbaooperation";
}
impl Kind for crate::api::OpenBaoRestore {
    const NAME: &'static str = "openbaorestore";
}

pub struct Connection {
    client: Client,
    namespace: String,
    output: Option<Output>,
    /// The flags that lead here, for commands that are suggested.
    words: String,
    /// Who asks, as far as the kubeconfig tells.
    user: String,
}

impl Connection {
    pub async fn open(global: Global) -> Result<Self, Error> {
        let Global { namespace, context, output } = global;
        let mut words = String::new();
        for (flag, value) in [("--context", &context), ("--namespace", &namespace)] {
            if let Some(value) = value {
                words.extend([" ", flag, " ", value]);
            }
        }
        let options = KubeConfigOptions { context, ..KubeConfigOptions::default() };
        let user = user(&options);
        let config = match Config::from_kubeconfig(&options).await {
            Ok(config) => config,
            // In a pod there is no kubeconfig.
            Err(error) if options.context.is_none() => {
                Config::incluster().map_err(|_| Error::Config(Box::new(error)))?
            }
            Err(error) => return Err(Error::Config(Box::new(error))),
        };
        let namespace = namespace.unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).map_err(|error| Error::Config(Box::new(error)))?;
        Ok(Self { client, namespace, output, words, user })
    }

    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// What follows `kubectl openbao` in a command that a person is told to type: empty, or begins with a space.
    pub fn words(&self) -> &str {
        &self.words
    }

    pub fn user(&self) -> &str {
        &self.user
    }

    /// For what is no object.
    pub fn client(&self) -> &Client {
        &self.client
    }

    pub fn api<K: Kind>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Kubernetes' own kinds.
    pub fn objects<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub async fn get<K: Kind>(&self, name: &str) -> Result<K, Error> {
        self.find(name).await?.ok_or_else(|| Error::Missing(K::NAME, name.to_owned(), self.namespace.clone()))
    }

    pub async fn find<K: Kind>(&self, name: &str) -> Result<Option<K>, Error> {
        let what = || format!("{} {name}", K::NAME);
        timed(self.api::<K>().get_opt(name)).await.map_err(|source| Error::Read { what: what(), source })
    }

    /// In this namespace, or in all of them; by namespace and name.
    pub async fn list<K: Kind>(&self, all: bool) -> Result<Vec<K>, Error> {
        let api = if all { Api::<K>::all(self.client.clone()) } else { self.api() };
        let list = timed(api.list(&ListParams::default())).await;
        let mut items = list.map_err(|source| Error::Read { what: format!("{}s", K::NAME), source })?.items;
        items.sort_by_key(|item| (item.namespace(), item.name_any()));
        Ok(items)
    }

    pub async fn create<K: Kind>(&self, object: &K, dry: bool) -> Result<K, Error> {
        let parameters = PostParams { dry_run: dry, field_manager: Some("kubectl-openbao".to_owned()) };
        let what = || format!("{} {}", K::NAME, object.name_any());
        timed(self.api::<K>().create(&parameters, object)).await.map_err(|source| Error::Write { what: what(), source })
    }

    /// Appends to `spec.requests` of exactly the version that was read: a nonce of another person is never lost.
    pub async fn request<K: Kind>(&self, object: &K, requests: &[crate::api::Request]) -> Result<K, Error> {
        let name = object.name_any();
        let patch = serde_json::json!({
            "metadata": {"resourceVersion": object.resource_version()},
            "spec": {"requests": requests},
        });
        let parameters = PatchParams { field_manager: Some("kubectl-openbao".to_owned()), ..PatchParams::default() };
        timed(self.api::<K>().patch(&name, &parameters, &Patch::Merge(&patch)))
            .await
            .map_err(|source| Error::Write { what: format!("{} {name}", K::NAME), source })
    }

    /// The objects as JSON or YAML, if that was asked for.
    pub fn encode<T: Serialize>(&self, value: &T) -> Result<Option<String>, Error> {
        self.output.map(|output| encode(output, value)).transpose()
    }
}

fn encode<T: Serialize>(output: Output, value: &T) -> Result<String, Error> {
    match output {
        Output::Json => serde_json::to_string_pretty(value).map_err(|error| Error::Encode(Box::new(error))),
        Output::Yaml => serde_saphyr::to_string(value).map_err(|error| Error::Encode(Box::new(error))),
    }
}

/// The kubeconfig's user of the chosen context; certificates and tokens may name another, which only the server knows.
fn user(options: &KubeConfigOptions) -> String {
    let unknown = || "unknown".to_owned();
    let Ok(file) = kube::config::Kubeconfig::read() else { return unknown() };
    let Some(wanted) = options.context.clone().or(file.current_context) else { return unknown() };
    let context = file.contexts.into_iter().find(|one| one.name == wanted).and_then(|one| one.context);
    context.and_then(|context| context.user).unwrap_or_else(unknown)
}

/// A list as Kubernetes writes one, for `-o`.
#[derive(Serialize)]
pub struct List<'a, K> {
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    kind: &'static str,
    items: &'a [K],
}

impl<'a, K> From<&'a [K]> for List<'a, K> {
    fn from(items: &'a [K]) -> Self {
        Self { api_version: "v1", kind: "List", items }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(output: Option<Output>) -> Connection {
        drop(rustls::crypto::ring::default_provider().install_default());
        let client = Client::try_from(Config::new("http://127.0.0.1:1".parse().unwrap())).unwrap();
        Connection { client, namespace: "vault".into(), output, words: String::new(), user: "ann".into() }
    }

    // A client wants a runtime, though nothing is asked of it.
    #[tokio::test]
    async fn what_came_of_a_request_is_a_sentence_or_the_object_as_asked_for() {
        let operation: crate::api::OpenBaoOperation =
            serde_saphyr::from_str("metadata: {name: a}\nspec: {cluster: fern, operation: Backup}").unwrap();
        let told = |output| super::super::told(&connection(output), &operation, "Cancel of a: done").unwrap();
        assert_eq!(told(None), ("Cancel of a: done".to_owned(), None));
        let (out, beside) = told(Some(Output::Json));
        let json: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(json["metadata"]["name"], "a");
        assert_eq!(beside, Some("Cancel of a: done"));
        let (out, _) = told(Some(Output::Yaml));
        assert!(out.contains("cluster: fern"), "{out}");
    }
}
