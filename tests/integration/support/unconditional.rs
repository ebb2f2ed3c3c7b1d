//! Objects whose second create of a name does what it must not, in each way that a server may.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    Result,
};
use tokio::sync::Mutex;

/// What becomes of a create of an object that exists, where nobody else creates at that moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Second {
    Overwrites,
    SaysItCreated,
    OverwritesAndRefuses,
    /// It is refused as it must be, but no listing shows what the first wrote.
    HiddenFromLists,
}

#[derive(Debug)]
pub struct UnconditionalObjects {
    inner: Arc<dyn ObjectStore>,
    second: Second,
    /// Creates so far: those that come at the same moment are held to the condition.
    creates: Mutex<usize>,
}

/// As many as the probe begins at once.
const AT_ONCE: usize = 8;

impl UnconditionalObjects {
    pub fn over(inner: Arc<dyn ObjectStore>, second: Second) -> Self {
        Self {
            inner,
            second,
            creates: Mutex::new(0),
        }
    }
}

impl fmt::Display for UnconditionalObjects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unconditional {}", self.inner)
    }
}

#[async_trait]
impl ObjectStore for UnconditionalObjects {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let mut creates = self.creates.lock().await;
        *creates += usize::from(options.mode == PutMode::Create);
        let kept = *creates <= AT_ONCE || self.second == Second::HiddenFromLists;
        if kept || options.mode != PutMode::Create {
            return self.inner.put_opts(location, payload, options).await;
        }
        match self.second {
            Second::Overwrites => self.inner.put(location, payload).await,
            Second::OverwritesAndRefuses => {
                self.inner.put(location, payload).await?;
                Err(Error::AlreadyExists {
                    path: location.to_string(),
                    source: "exists".into(),
                })
            }
            _ => Ok(PutResult {
                e_tag: None,
                version: None,
                extensions: object_store::Extensions::default(),
            }),
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let mut found = self.inner.list_with_delimiter(prefix).await?;
        if self.second == Second::HiddenFromLists {
            found.objects.clear();
        }
        Ok(found)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
