module github.com/linkspan/linkspan

go 1.26.0
