"""One file or folder per tracker."""
