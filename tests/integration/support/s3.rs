//! A real S3 server on a port of its own: signatures, conditions, multipart uploads and paging are
//! enforced as by a cloud's.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "all of it is test code, also outside the functions that are marked as tests"
)]

use std::net::Ipv4Addr;
use std::path::PathBuf;

use cohort::store::Store;
use cohort::store::backend::{Credentials, MissingFolder};
use cohort::store::settings::StoreSettings;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::dto;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{S3, S3Request, S3Response, S3Result};
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, watch};
use tokio::task::{AbortHandle, JoinSet};

/// Serves until dropped, from a folder that goes with it. Must be started inside a tokio runtime
/// that lives as long.
///
/// A process of its own reaches it with [`S3Server::settings`] in its configuration and
/// [`S3Server::environment`] in its environment.
pub struct S3Server {
    pub endpoint: String,
    pub access_key_id: String,
    pub secret_access_key: String,
    pub bucket: String,
    task: AbortHandle,
    _folder: TempDir,
}

impl S3Server {
    pub async fn start() -> Self {
        Self::start_with(Creates::Conditional).await
    }

    pub async fn start_with(creates: Creates) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let bucket = "cohort-test".to_owned();
        std::fs::create_dir(folder.path().join(&bucket)).unwrap();
        let (access_key_id, secret_access_key) = ("test-access-key", "test-secret-key");

        let mut builder = S3ServiceBuilder::new(StrictFiles {
            files: FileSystem::new(folder.path()).unwrap(),
            root: folder.path().to_owned(),
            creates,
            create: Mutex::new(()),
            looked: watch::Sender::new(0),
        });
        builder.set_auth(SimpleAuth::from_single(access_key_id, secret_access_key));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let task = tokio::spawn(serve(listener, builder.build())).abort_handle();
        Self {
            endpoint,
            access_key_id: access_key_id.to_owned(),
            secret_access_key: secret_access_key.to_owned(),
            bucket,
            task,
            _folder: folder,
        }
    }

    /// The settings of a store at a prefix of the bucket.
    pub fn settings(&self, prefix: &str) -> StoreSettings {
        StoreSettings {
            endpoint: Some(self.endpoint.clone()),
            region: Some("us-east-1".to_owned()),
            allow_http: true,
            ..StoreSettings::at(format!("s3://{}/{prefix}", self.bucket))
        }
    }

    pub fn store(&self, prefix: &str) -> Store {
        let credentials = Credentials::S3Key {
            access_key_id: self.access_key_id.clone(),
            secret_access_key: self.secret_access_key.clone(),
        };
        Store::open_as(&self.settings(prefix), &credentials, MissingFolder::Refuse).unwrap()
    }

    /// The variables that give a child process its credentials, and an endpoint that the YAML's
    /// comes before.
    pub fn environment(&self) -> [(&'static str, &str); 3] {
        [
            ("AWS_ACCESS_KEY_ID", &self.access_key_id),
            ("AWS_SECRET_ACCESS_KEY", &self.secret_access_key),
            ("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1"),
        ]
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, service: S3Service) {
    let mut connections = JoinSet::new();
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        let service = service.clone();
        connections.spawn(async move {
            let builder = Builder::new(TokioExecutor::new());
            // A client that hangs up ends its connection with an error, which is its own affair.
            drop(
                builder
                    .serve_connection(TokioIo::new(socket), service)
                    .await,
            );
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Creates that have looked before the first of them writes, where they race.
const RACERS: usize = 2;

/// What the server makes of the condition of a create.
#[derive(Clone, Copy)]
pub enum Creates {
    /// Holds it as a cloud does.
    Conditional,
    /// Looks first and writes later, when another has looked too.
    Racing,
    /// Takes it for a plain write.
    Unconditional,
}

/// The file server where it is laxer than Amazon's. A conditional create is atomic there, but the
/// file server looks first and writes later: one create at a time makes it so. And a write to a
/// bucket that does not exist is refused there, but the file server makes the bucket.
struct StrictFiles {
    files: FileSystem,
    root: PathBuf,
    creates: Creates,
    create: Mutex<()>,
    looked: watch::Sender<usize>,
}

macro_rules! pass_on {
    ($($operation:ident: $input:ident -> $output:ident,)*) => {
        #[async_trait::async_trait]
        impl S3 for StrictFiles {
            async fn put_object(
                &self,
                mut request: S3Request<dto::PutObjectInput>,
            ) -> S3Result<S3Response<dto::PutObjectOutput>> {
                if !self.root.join(&request.input.bucket).is_dir() {
                    return Err(s3s::s3_error!(NoSuchBucket));
                }
                let conditional = request.input.if_none_match.is_some();
                match self.creates {
                    Creates::Conditional if conditional => {
                        let _one_at_a_time = self.create.lock().await;
                        self.files.put_object(request).await
                    }
                    Creates::Conditional => self.files.put_object(request).await,
                    Creates::Racing | Creates::Unconditional => {
                        let key = &request.input.key;
                        let path = self.root.join(&request.input.bucket).join(key);
                        if matches!(self.creates, Creates::Racing) && conditional {
                            if path.exists() {
                                return Err(s3s::s3_error!(PreconditionFailed));
                            }
                            self.looked.send_modify(|looked| *looked += 1);
                            let mut looked = self.looked.subscribe();
                            drop(looked.wait_for(|looked| *looked >= RACERS).await);
                        }
                        request.input.if_none_match = None;
                        self.files.put_object(request).await
                    }
                }
            }

            $(async fn $operation(
                &self,
                request: S3Request<dto::$input>,
            ) -> S3Result<S3Response<dto::$output>> {
                self.files.$operation(request).await
            })*
        }
    };
}

pass_on! {
    get_object: GetObjectInput -> GetObjectOutput,
    head_object: HeadObjectInput -> HeadObjectOutput,
    delete_object: DeleteObjectInput -> DeleteObjectOutput,
    delete_objects: DeleteObjectsInput -> DeleteObjectsOutput,
    list_objects_v2: ListObjectsV2Input -> ListObjectsV2Output,
    create_multipart_upload: CreateMultipartUploadInput -> CreateMultipartUploadOutput,
    upload_part: UploadPartInput -> UploadPartOutput,
    complete_multipart_upload: CompleteMultipartUploadInput -> CompleteMultipartUploadOutput,
    abort_multipart_upload: AbortMultipartUploadInput -> AbortMultipartUploadOutput,
}
