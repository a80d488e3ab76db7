"""Index and predict on many processes or machines, through Ray (the extra ``cluster``).

with Cluster("local") as cluster:  # or "ray://host:10001"
    Library.at("lib").index("s3://bucket/photos", elsewhere=cluster)
    for answer in cluster.predict("runs/photos", ["s3://bucket/new"]):
        print(answer.key, answer.label)
"""

from neocog.cluster.session import Cluster

__all__ = ["Cluster"]
