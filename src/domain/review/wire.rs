//! The parts of an `AdmissionReview` that are decoded. Every field may be missing or null, as Go reads it.

use std::{borrow::Cow, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::value::RawValue;

use super::{
    MIRROR_ANNOTATION, MOST_IMAGES, MOST_PULL_SECRET_BYTES, MOST_PULL_SECRETS, OPT_OUT_LABEL, OPT_OUT_VALUE,
    PullSecretReference,
};

/// `Object` is the type of `request.object`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "Object: Deserialize<'de>"))]
pub(super) struct Review<'a, Object> {
    #[serde(borrow)]
    pub(super) api_version: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) kind: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) request: Option<Fields<Request<'a, Object>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "Object: Deserialize<'de>"))]
pub(super) struct Request<'a, Object> {
    #[serde(borrow)]
    pub(super) uid: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) kind: Option<Fields<GroupVersionKind<'a>>>,
    #[serde(borrow)]
    pub(super) sub_resource: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) namespace: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) operation: Option<Text<'a>>,
    pub(super) object: Option<Object>,
    pub(super) dry_run: Option<bool>,
}

#[derive(Deserialize)]
pub(super) struct GroupVersionKind<'a> {
    #[serde(borrow)]
    group: Option<Text<'a>>,
    #[serde(borrow)]
    version: Option<Text<'a>>,
    #[serde(borrow)]
    kind: Option<Text<'a>>,
}

impl GroupVersionKind<'_> {
    pub(super) fn is_pod(&self) -> bool {
        let is = |text: &Option<Text<'_>>, expected| text.as_ref().map_or("", Text::as_str) == expected;
        is(&self.group, "") && is(&self.version, "v1") && is(&self.kind, "Pod")
    }
}

#[derive(Deserialize)]
pub(super) struct Pod<'a> {
    #[serde(borrow)]
    metadata: Option<Fields<Metadata<'a>>>,
    #[serde(borrow)]
    spec: Option<Fields<Spec<'a>>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    #[serde(borrow)]
    name: Option<Text<'a>>,
    #[serde(borrow)]
    generate_name: Option<Text<'a>>,
    #[serde(borrow)]
    labels: Option<Entry<'a, OptOut>>,
    #[serde(borrow)]
    annotations: Option<Entry<'a, Mirror>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec<'a> {
    #[serde(borrow)]
    containers: Option<Images<'a, Container<'a>>>,
    #[serde(borrow)]
    init_containers: Option<Images<'a, Container<'a>>>,
    #[serde(borrow)]
    ephemeral_containers: Option<Images<'a, Container<'a>>>,
    #[serde(borrow)]
    volumes: Option<Images<'a, Volume<'a>>>,
    #[serde(borrow)]
    image_pull_secrets: Option<PullSecrets<'a>>,
}

#[derive(Deserialize)]
struct Container<'a> {
    #[serde(borrow)]
    image: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct Volume<'a> {
    #[serde(borrow)]
    image: Option<Fields<ImageVolume<'a>>>,
}

#[derive(Deserialize)]
struct ImageVolume<'a> {
    #[serde(borrow)]
    reference: Option<Text<'a>>,
}

impl<'a> From<Pod<'a>> for super::Pod<'a> {
    fn from(pod: Pod<'a>) -> Self {
        let metadata = pod.metadata.unwrap_or_default().0;
        let spec = pod.spec.unwrap_or_default().0;
        let mut images = spec.containers.unwrap_or_default().images;
        let others = [spec.init_containers, spec.ephemeral_containers].map(|list| list.map(|list| list.images));
        let others = others.into_iter().chain([spec.volumes.map(|list| list.images)]).flatten().flatten();
        images.extend(others.take(MOST_IMAGES - images.len()));
        Self {
            name: metadata.name.map(Cow::from).unwrap_or_default(),
            generate_name: metadata.generate_name.map(Cow::from).unwrap_or_default(),
            images,
            pull_secrets: spec.image_pull_secrets.unwrap_or_default(),
            opted_out: metadata
                .labels
                .and_then(|labels| labels.value)
                .is_some_and(|value| value.as_str() == OPT_OUT_VALUE),
            mirror: metadata.annotations.is_some_and(|annotations| annotations.value.is_some()),
        }
    }
}

/// A JSON object with the fields of `T`. A derived struct also takes a list of its fields in their order, which is no
/// Kubernetes object: a patch for it would not apply.
#[derive(Default)]
pub(super) struct Fields<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Fields<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor(PhantomData)).map(Self)
    }
}

struct FieldsVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for FieldsVisitor<T> {
    type Value = T;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(fields))
    }
}

/// The images of a list of containers or volumes, and nothing else of it: an entry may be three bytes of the body.
struct Images<'a, Of> {
    images: Vec<Cow<'a, str>>,
    of: PhantomData<Of>,
}

impl<Of> Default for Images<'_, Of> {
    fn default() -> Self {
        Self { images: Vec::new(), of: PhantomData }
    }
}

/// What names an image, or may do so.
trait NamesImage<'a> {
    fn image(self) -> Option<Text<'a>>;
}

impl<'a> NamesImage<'a> for Container<'a> {
    fn image(self) -> Option<Text<'a>> {
        self.image
    }
}

impl<'a> NamesImage<'a> for Volume<'a> {
    fn image(self) -> Option<Text<'a>> {
        self.image?.0.reference
    }
}

impl<'de: 'a, 'a, Of: Deserialize<'de> + NamesImage<'a>> Deserialize<'de> for Images<'a, Of> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ImagesVisitor(Self::default()))
    }
}

struct ImagesVisitor<'a, Of>(Images<'a, Of>);

impl<'de: 'a, 'a, Of: Deserialize<'de> + NamesImage<'a>> Visitor<'de> for ImagesVisitor<'a, Of> {
    type Value = Images<'a, Of>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list of objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut entries: A) -> Result<Self::Value, A::Error> {
        let images = &mut self.0.images;
        while let Some(Fields(entry)) = entries.next_element::<Fields<Of>>()? {
            let image = entry.image().filter(|image| !image.as_str().is_empty());
            if let Some(image) = image.filter(|_| images.len() < MOST_IMAGES) {
                images.push(image.into());
            }
        }
        Ok(self.0)
    }
}

/// The list of pull secrets, no further than it takes to know that there are too many: the API server lets a list of a
/// million through to us.
#[derive(Clone, Debug)]
pub(super) enum PullSecrets<'a> {
    Known(Vec<PullSecretReference<'a>>),
    TooMany,
}

impl Default for PullSecrets<'_> {
    fn default() -> Self {
        Self::Known(Vec::new())
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for PullSecrets<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(PullSecretsVisitor)
    }
}

struct PullSecretsVisitor;

impl<'de> Visitor<'de> for PullSecretsVisitor {
    type Value = PullSecrets<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list of pull secrets")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let (mut references, mut bytes) = (Vec::new(), 0);
        while let Some(reference) = entries.next_element::<Option<PullSecretReference<'de>>>()? {
            let reference = reference.unwrap_or(PullSecretReference::EMPTY);
            bytes += reference.json.len();
            if references.len() == MOST_PULL_SECRETS || bytes > MOST_PULL_SECRET_BYTES {
                while entries.next_element::<IgnoredAny>()?.is_some() {}
                return Ok(PullSecrets::TooMany);
            }
            references.push(reference);
        }
        Ok(PullSecrets::Known(references))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for PullSecretReference<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = <&'de RawValue>::deserialize(deserializer)?.get();
        // The error may quote the body.
        let Named(name) = serde_json::from_str(json).map_err(|_| D::Error::custom("not a reference to a Secret"))?;
        Ok(Self { json, name })
    }
}

/// The `name` of an object, if it is a text. Of fields with the same name the last one counts, as for Go.
struct Named<'a>(Option<Cow<'a, str>>);

impl<'de: 'a, 'a> Deserialize<'de> for Named<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(NamedVisitor)
    }
}

struct NamedVisitor;

impl<'de> Visitor<'de> for NamedVisitor {
    type Value = Named<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
        let mut name = None;
        while let Some(field) = fields.next_key::<Text<'de>>()? {
            if field.as_str() == "name" {
                let value: &'de RawValue = fields.next_value()?;
                name = serde_json::from_str::<Text<'de>>(value.get()).ok().map(Cow::from);
            } else {
                fields.next_value::<IgnoredAny>()?;
            }
        }
        Ok(Named(name))
    }
}

/// A string, borrowed from the body unless it holds an escape. (serde borrows a bare `Cow`, but not one in an `Option`.)
#[derive(Default, Deserialize)]
#[serde(transparent)]
pub(super) struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl Text<'_> {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'a> From<Text<'a>> for Cow<'a, str> {
    fn from(text: Text<'a>) -> Self {
        text.0
    }
}

/// The one entry of a map of strings that matters; the others are passed over.
struct Entry<'a, Wanted> {
    /// The value, empty when it is null; `None` when the key is not there.
    value: Option<Text<'a>>,
    wanted: PhantomData<Wanted>,
}

trait Key {
    const KEY: &'static str;
}

struct OptOut;

impl Key for OptOut {
    const KEY: &'static str = OPT_OUT_LABEL;
}

struct Mirror;

impl Key for Mirror {
    const KEY: &'static str = MIRROR_ANNOTATION;
}

impl<'de: 'a, 'a, Wanted: Key> Deserialize<'de> for Entry<'a, Wanted> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntryVisitor(PhantomData))
    }
}

struct EntryVisitor<Wanted>(PhantomData<Wanted>);

impl<'de, Wanted: Key> Visitor<'de> for EntryVisitor<Wanted> {
    type Value = Entry<'de, Wanted>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a map of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut value = None;
        while let Some(key) = entries.next_key::<Text<'de>>()? {
            if key.as_str() == Wanted::KEY {
                value = Some(entries.next_value::<Option<Text<'de>>>()?.unwrap_or_default());
            } else {
                entries.next_value::<IgnoredAny>()?;
            }
        }
        Ok(Entry { value, wanted: PhantomData })
    }
}
