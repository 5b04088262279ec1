"""Tasks of facts and rules: generated ones, ProofWriter and PrOntoQA."""

from rightcall.tasks.rules.data import ProntoQaTask, ProofWriterTask
from rightcall.tasks.rules.generator import RulesTask

__all__ = ["ProntoQaTask", "ProofWriterTask", "RulesTask"]
