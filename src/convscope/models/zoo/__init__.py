"""The classifiers of torchvision and timm, and published weights."""
